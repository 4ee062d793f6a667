"""Rank and learning rate: what they do to intruders, forgetting, the task and the rank of the update."""

import statistics
from collections.abc import Callable, Sequence

from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from benchmarks.study.figures import paper
from benchmarks.study.figures.spread import Series, key, level, places, spread
from benchmarks.study.figures.tables import Row, Tables, doubled, grouped, rate, spectra
from benchmarks.study.runs import FULL, LORA
from spectra.plots.elements import PLAIN, log_axis, words
from spectra.plots.style import CATEGORIES, DOUBLE, INTENSITY, MARKERS, MUTED, SMALL, figure_of, new_axes

Take = Callable[[Row], float]
BITS = "bits per byte"
FULL_COLOUR = CATEGORIES[6]
CROWDED = 0.03  # bits per byte between two points that are both named
NAMED = (4, -8), (-2, 5)  # where a point's name stands: settings that cross take turns


def settings(tables: Tables) -> list[tuple[str, str, str, list[Row]]]:
    """LoRA's runs by the rule for alpha and the rate: name, colour, marker, rows."""
    return [
        (f"LoRA, {name}", CATEGORIES[order % 6], MARKERS[order % len(MARKERS)], rows)
        for order, (name, rows) in enumerate(rules(tables).items())
    ]


def rules(tables: Tables) -> dict[str, list[Row]]:
    """LoRA's runs by how alpha was set, within each learning rate. A run at alpha = 2r = 16 belongs to both rules."""
    found = {}
    for value, rows in sorted(grouped(_lora(tables), lambda row: row["learning_rate"]).items()):
        found[f"α = 2r, rate {rate(value)}"] = [row for row in rows if doubled(row)]
        for alpha in sorted({row["alpha"] for row in rows if not doubled(row)}):
            found[f"α = {alpha:g}, rate {rate(value)}"] = [row for row in rows if row["alpha"] == alpha]
    return {name: rows for name, rows in found.items() if rows}


def _lora(tables: Tables) -> list[Row]:
    return [row for row in tables.main if row["method"] == LORA]


def by_rank(tables: Tables) -> Figure:
    """Intruders, forgetting and task loss by rank, with full fine-tuning at each rate beside them."""
    lora = settings(tables)
    ranks = sorted({row["rank"] for *_, rows in lora for row in rows})
    full = grouped([row for row in tables.main if row["method"] == FULL], lambda row: row["learning_rate"])
    rates = sorted(full)
    takes: list[tuple[str, str, Take]] = [
        ("Intruders", "of the whole model", spectra("count")),
        ("Forgetting", BITS, lambda row: row["forgetting"]),
        ("Loss on the task", BITS, lambda row: row["task_loss"]),
    ]
    grid = new_axes(DOUBLE, 2.9, columns=3)
    for ax, (title, unit, take) in zip(grid, takes, strict=True):
        series = [
            Series(name, _values(rows, lambda row: ranks.index(row["rank"]), take), colour, marker)
            for name, colour, marker, rows in lora
        ]
        beside = {float(len(ranks) + rates.index(at)): [take(row) for row in rows] for at, rows in full.items()}
        series.append(Series("full, by rate", beside, FULL_COLOUR, "D", "none"))
        handles = spread(ax, series)
        places(ax, [*ranks, *map(rate, rates)], apart=len(ranks))
        ax.tick_params(axis="x", rotation=60)
        least = min(value for one in series for seeds in one.values.values() for value in seeds)
        if least < 0:  # a model may come out better than it was
            ax.axhline(0, color=MUTED, linewidth=0.6, zorder=0)
        elif title != "Loss on the task":
            ax.set_ylim(0)
        words(ax, title=title, x="rank of LoRA | rate of full", y=unit)
    key(grid[0], handles, [one.name for one in series])
    return figure_of(grid[0])


def _values(rows: Sequence[Row], x: Callable[[Row], float], take: Take) -> dict[float, list[float]]:
    return {at: [take(row) for row in own] for at, own in grouped(rows, x).items()}


def effective_rank(tables: Tables) -> Figure:
    """How much of its rank an update uses, by entropy and by energy (paper, Fig. 14)."""
    grid = new_axes(DOUBLE * 0.8, 2.9, columns=2)
    takes = (("Effective rank of ΔW", "effective_rank"), ("Directions with 90 % of ||ΔW||²", "energy_90"))
    full = [row for row in tables.main if row["method"] == FULL]
    for ax, (title, name) in zip(grid, takes, strict=True):
        series = [
            Series(label, _values(rows, lambda row: row["rank"], spectra(name)), colour, marker)
            for label, colour, marker, rows in settings(tables)
        ]
        handles = spread(ax, series)
        ranks = sorted({row["rank"] for *_, rows in settings(tables) for row in rows})
        log_axis(ax, "x", ranks[0] / 1.3, ranks[-1] * 1.3)
        values = [spectra(name)(row) for row in tables.main if row["method"] in (LORA, FULL)]
        most = max(*values, paper.FULL_EFFECTIVE_RANK if name == "effective_rank" else 0)
        log_axis(ax, "y", min(values) / 1.3, most * 1.6)
        ax.plot(ranks, ranks, color=MUTED, linewidth=0.7, linestyle=":", zorder=0)
        ax.annotate("all of r", (ranks[1], ranks[1]), xytext=(-3, 4), textcoords="offset points", ha="right",
                    va="bottom", fontsize=SMALL, color=MUTED, **PLAIN)  # fmt: skip
        mean = statistics.fmean(spectra(name)(row) for row in full)
        level(ax, mean, f"ours, full: {mean:.0f}, mean of {len(full)} runs", above=False)
        if name == "effective_rank":
            level(ax, paper.FULL_EFFECTIVE_RANK, f"paper, full: above {paper.FULL_EFFECTIVE_RANK:.0f}")
        words(ax, title=title, x="rank given to LoRA", y="median over matrices" if ax is grid[0] else "")
    key(grid[0], handles, [one.name for one in series])
    return figure_of(grid[0])


def by_learning_rate(tables: Tables) -> Figure:
    """Intruders and forgetting against the learning rate, alpha = 2r."""
    lora = [row for row in _lora(tables) if doubled(row)]
    several = [
        (rank, rows)
        for rank, rows in sorted(grouped(lora, lambda row: row["rank"]).items())
        if len({row["learning_rate"] for row in rows}) > 1
    ]
    full = [row for row in tables.main if row["method"] == FULL]
    grid = new_axes(DOUBLE, 2.9, columns=3)
    takes: list[tuple[str, str, Take]] = [
        ("Intruders", "of the whole model", spectra("count")),
        ("Forgetting", BITS, lambda row: row["forgetting"]),
        ("Size of the update", "||ΔW|| / ||W0||", spectra("update_over_base")),
    ]
    for ax, (title, unit, take) in zip(grid, takes, strict=True):
        series = [
            Series(
                f"LoRA r = {rank}", _values(rows, lambda row: row["learning_rate"], take), *look(order, len(several))
            )
            for order, (rank, rows) in enumerate(several)
        ]
        series.append(Series("full", _values(full, lambda row: row["learning_rate"], take), FULL_COLOUR, "D", "--"))
        handles = spread(ax, series)
        rates = [row["learning_rate"] for row in (*lora, *full)]
        log_axis(ax, "x", min(rates) / 1.4, max(rates) * 1.4)
        ax.set_ylim(0)
        ax.xaxis.set_major_locator(FixedLocator(sorted(set(rates))))
        ax.xaxis.set_major_formatter(lambda value, _: rate(value))
        words(ax, title=title, x="learning rate", y=unit)
    key(grid[0], handles, [one.name for one in series])
    return figure_of(grid[0])


def look(order: int, of: int) -> tuple[str, str]:
    """Colour and marker of one rank among several, the darker the higher."""
    return to_hex(INTENSITY(0.3 + 0.7 * order / max(1, of - 1))), MARKERS[order % len(MARKERS)]


def trade_off(tables: Tables) -> Figure:
    """Forgetting against the loss on the task: what each setting pays for what it learns."""
    (ax,) = new_axes(DOUBLE * 0.72, 3.3)
    groups = [(label, colour, marker, rows) for label, colour, marker, rows in settings(tables)]
    full = [row for row in tables.main if row["method"] == FULL]
    groups.append(("full, by rate", FULL_COLOUR, "D", full))
    handles, names = [], []
    for order, (label, colour, marker, rows) in enumerate(groups):
        ordered = sorted(rows, key=lambda row: (row["rank"] or 0, row["learning_rate"]))
        own = grouped(ordered, lambda row: (row["rank"], row["learning_rate"]))
        means = [tuple(statistics.fmean(row[what] for row in part) for what in ("task_loss", "forgetting"))
                 for part in own.values()]  # fmt: skip
        handles += ax.plot(*zip(*means, strict=True), color=colour, marker=marker, markersize=3.6, linewidth=0.9)
        ax.plot([row["task_loss"] for row in rows], [row["forgetting"] for row in rows], ".", color=colour,
                markersize=2.6, markeredgewidth=0, alpha=0.6)  # fmt: skip
        names.append(label)
        said: list[tuple[float, float]] = []
        for (rank, value), (x, y) in zip(own, means, strict=True):
            if any(abs(x - left) < CROWDED and abs(y - low) < CROWDED for left, low in said):
                continue
            said.append((x, y))
            ax.annotate(str(rank or rate(value)), (x, y), xytext=NAMED[order % 2], textcoords="offset points",
                        fontsize=SMALL, color=colour, **PLAIN)  # fmt: skip
    ax.invert_xaxis()
    ax.set_ylim(0)
    words(ax, title="What each run forgot for what it learnt", x=f"loss on the task, {BITS} (learns more to the right)",
          y=f"forgetting, {BITS}")  # fmt: skip
    key(ax, handles, names)
    return figure_of(ax)
