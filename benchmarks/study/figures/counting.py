"""How a count of intruders hangs on what is counted: the threshold epsilon and the number of directions k."""

from collections.abc import Callable, Sequence

import numpy
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.study.figures.ranks import rules
from benchmarks.study.figures.spread import key
from benchmarks.study.figures.tables import Row, Tables, grouped, rate
from benchmarks.study.runs import FULL, LORA
from spectra.plots.elements import words
from spectra.plots.style import CATEGORIES, DOUBLE, INTENSITY, MUTED, figure_of, new_axes

EPSILON, K = 0.5, 10
Curve = Callable[[Row], tuple[Sequence[float], Sequence[float]]]


def by_epsilon(tables: Tables) -> Figure:
    """Intruders of the whole model against epsilon, k = 10 (paper, Fig. 4)."""

    def curve(row: Row) -> tuple[Sequence[float], Sequence[float]]:
        table = row["spectra"]["by_k_and_epsilon"]
        return table["epsilon"], table["counts"][table["k"].index(K)]

    return _panels(tables, curve, "threshold ε", used=EPSILON, logarithmic=False)


def by_k(tables: Tables) -> Figure:
    """Intruders of the whole model against k, epsilon = 0.5 (paper, Fig. 15)."""

    def curve(row: Row) -> tuple[Sequence[float], Sequence[float]]:
        table = row["spectra"]["by_k_and_epsilon"]
        at = table["epsilon"].index(EPSILON)
        return table["k"], [line[at] for line in table["counts"]]

    return _panels(tables, curve, "leading directions k", used=K, logarithmic=True)


def _panels(tables: Tables, curve: Curve, x: str, *, used: float, logarithmic: bool) -> Figure:
    """One panel for each way of setting alpha and rate, the same full fine-tunes in all."""
    lora = [row for row in tables.main if row["method"] == LORA]
    full = [row for row in tables.main if row["method"] == FULL]
    ranks = sorted({row["rank"] for row in lora})
    sets = rules(tables)
    grid = new_axes(DOUBLE, 2.9, columns=len(sets))
    named: dict[str, Artist] = {}
    top = max(max(curve(row)[1]) for row in (*lora, *full))
    for ax, (setting, rows) in zip(grid, sets.items(), strict=True):
        for rank, own in sorted(grouped(rows, lambda row: row["rank"]).items()):
            shade = INTENSITY(0.25 + 0.75 * ranks.index(rank) / max(1, len(ranks) - 1))
            named[f"LoRA r = {rank}"] = _band(ax, own, curve, shade, "-")
        for order, (value, own) in enumerate(sorted(grouped(full, lambda row: row["learning_rate"]).items())):
            named[f"full, {rate(value)}"] = _band(ax, own, curve, CATEGORIES[(6, 1, 4)[order % 3]], "--")
        ax.axvline(used, color=MUTED, linewidth=0.7, linestyle=":", zorder=0)
        ax.set_yscale("symlog", linthresh=10)
        ax.set_ylim(0, top * 1.2)
        ax.set(xscale="log") if logarithmic else ax.set_xlim(0, 1)
        words(ax, title=setting, x=x, y="intruders" if ax is grid[0] else "")
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    names = sorted(named, key=lambda one: (one.startswith("full"), float(one.rpartition(" ")[2])))
    key(grid[0], [named[one] for one in names], names)
    return figure_of(grid[0])


def _band(ax: Axes, rows: Sequence[Row], curve: Curve, colour: object, line: str) -> Artist:
    """The mean over seeds as a line, from the least to the most as a shade."""
    x = curve(rows[0])[0]
    every = numpy.asarray([curve(row)[1] for row in rows], dtype=float)
    ax.fill_between(x, every.min(0), every.max(0), color=colour, alpha=0.2, linewidth=0)
    return ax.plot(x, every.mean(0), color=colour, linewidth=1.2, linestyle=line)[0]
