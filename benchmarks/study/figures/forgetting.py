"""Which number of a run goes with what it forgot."""

from collections.abc import Callable
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.study.correlation import PREDICTORS
from benchmarks.study.figures import paper
from benchmarks.study.figures.ranks import BITS, FULL_COLOUR, settings
from benchmarks.study.figures.spread import key
from benchmarks.study.figures.tables import AbsentError, Row, Tables, rate
from benchmarks.study.runs import FULL
from spectra.plots.elements import PLAIN, words
from spectra.plots.style import ALARM, CATEGORIES, DOUBLE, FAINT, MUTED, SMALL, TICK, figure_of, new_axes

SCATTERED = ("intruders", "energy share of intruders", "update norm", "critical scale")
UNITS = {
    "intruders": "of the whole model",
    "energy share of intruders": "share of ||ΔW||²",
    "update norm": "||ΔW|| / ||W0||",
    "critical scale": "median over matrices",
}


def predictors(tables: Tables) -> Figure:
    """Rank correlations of each predictor with forgetting, alone and with others held fixed, with their intervals."""
    strata = (f"{tables.task}: LoRA and full", f"{tables.task}: LoRA", f"{tables.second.task}: LoRA")
    correlations = tables.summary["correlations"]
    shown = {name: correlations[name] for name in strata if name in correlations}
    if not shown:
        raise AbsentError("the summary has no correlations of LoRA and full fine-tuning")
    names = list(PREDICTORS)
    grid = new_axes(DOUBLE, 3.9, columns=len(shown))
    for ax, (title, found) in zip(grid, shown.items(), strict=True):
        handles = [_intervals(ax, names, found, **look) for look in _LOOKS.values()]
        runs = max(one["n"] for one in found.values())
        ax.set_yticks(range(len(names)), names if ax is grid[0] else [""] * len(names), fontsize=TICK, **PLAIN)
        for at, name in enumerate(names):
            if 0 < found[name]["n"] < runs:
                ax.annotate(f"{found[name]['n']} runs", (0.62, at), va="center", fontsize=SMALL, color=MUTED, **PLAIN)
        for value in paper.FORGETTING_RHO.values():
            ax.plot([value], [names.index("intruders") - 0.44], "v", color=ALARM, markersize=3.5, markeredgewidth=0)
        ax.axvline(0, color=MUTED, linewidth=0.7, zorder=0)
        ax.set(xlim=(-1.02, 1.02), ylim=(len(names) - 0.5, -0.6), xticks=(-1, -0.5, 0, 0.5, 1))
        ax.grid(axis="y", color=FAINT, linewidth=0.5)
        words(ax, title=f"{title}, {runs} runs", x="Spearman's ρ with forgetting")
    (mark,) = grid[0].plot([], [], "v", color=ALARM, markersize=3.5, markeredgewidth=0)
    theirs = ", ".join(f"{value:g} ({place})" for place, value in paper.FORGETTING_RHO.items())
    key(grid[0], [*handles, mark], [*_LOOKS, f"paper: intruders, {theirs}"])
    return figure_of(grid[0])


_LOOKS: dict[str, dict[str, Any]] = {
    "alone": {"value": "rho", "ends": "interval", "shift": -0.2, "colour": CATEGORIES[0], "marker": "o"},
    "at equal task loss": {
        "value": "given_task_loss",
        "ends": "given_task_loss_interval",
        "shift": 0.04,
        "colour": CATEGORIES[2],
        "marker": "^",
    },
    "at equal task loss and update norm": {
        "value": "given_both",
        "ends": "given_both_interval",
        "shift": 0.28,
        "colour": CATEGORIES[4],
        "marker": "s",
    },
}


def _intervals(
    ax: Axes, names: list[str], found: dict[str, Row], *, value: str, ends: str, shift: float, colour: str, marker: str
) -> Any:
    """Draw one point and its interval a predictor; those that have none are left out."""
    known = [(at + shift, found[name]) for at, name in enumerate(names) if found[name].get(value) is not None]
    for at, one in known:
        if one.get(ends):
            ax.hlines(at, *one[ends], color=colour, linewidth=1.1)
    places = ([one[value] for _, one in known], [at for at, _ in known])
    return ax.plot(*places, marker, color=colour, markersize=3.6, markeredgewidth=0)[0]


def scatter(tables: Tables) -> Figure:
    """Forgetting against four predictors, one point a run."""
    groups = [(label, colour, marker, rows) for label, colour, marker, rows in settings(tables)]
    full = [row for row in tables.main if row["method"] == FULL]
    rates = ", ".join(rate(value) for value in sorted({row["learning_rate"] for row in full}))
    groups.append((f"full, rates {rates}", FULL_COLOUR, "D", full))
    grid = new_axes(DOUBLE, 2.5, columns=len(SCATTERED))
    top = 1.05 * max(row["forgetting"] for *_, rows in groups for row in rows)
    for ax, name in zip(grid, SCATTERED, strict=True):
        handles = [_points(ax, rows, PREDICTORS[name], colour, marker) for _, colour, marker, rows in groups]
        ax.set_ylim(0, top)
        words(
            ax,
            title=name.capitalize(),
            x=UNITS[name],
            y=f"forgetting, {BITS}" if ax is grid[0] else "",
        )
        if ax is not grid[0]:
            ax.tick_params(labelleft=False)
    key(grid[0], handles, [label for label, *_ in groups])
    return figure_of(grid[0])


def _points(ax: Axes, rows: list[Row], take: Callable[[Row], float | None], colour: str, marker: str) -> Any:
    known = [(value, row["forgetting"]) for row in rows if (value := take(row)) is not None]
    look: dict[str, Any] = {"color": colour, "markersize": 3.2, "markeredgewidth": 0, "alpha": 0.8}
    return ax.plot([x for x, _ in known], [y for _, y in known], marker, **look)[0]
