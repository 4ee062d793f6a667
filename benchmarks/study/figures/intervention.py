"""The intervention: what scaling intruders does, beside what it has to be compared with (paper, sec. 5)."""

import statistics
from collections.abc import Callable

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.study.figures import paper
from benchmarks.study.figures.ranks import BITS
from benchmarks.study.figures.spread import Series, key, spread
from benchmarks.study.figures.tables import AbsentError, Row, Tables, grouped
from benchmarks.study.intervene import UPDATE
from spectra.plots.elements import words
from spectra.plots.style import ALARM, CATEGORIES, DOUBLE, MARKERS, MUTED, SINGLE, figure_of, new_axes

KINDS = {
    "top intruder": ("top intruder of each matrix", ALARM, "o"),
    "random direction": ("another leading direction", CATEGORIES[0], "s"),
    "uniform": ("all of ΔW, moved as far as all intruders", CATEGORIES[2], "^"),
}
DRAWN = (0.0, 1.5)


def intervention(tables: Tables) -> Figure:
    """Change of forgetting and of the task loss when a direction of each matrix is scaled (paper, Figs. 8 and 12)."""
    groups = _ranks(tables)
    grid = new_axes(DOUBLE, 4.1, rows=2, columns=len(groups))
    for column, (rank, rows) in enumerate(groups.items()):
        found = statistics.fmean(row["intruders"] for row in rows)
        for line, (loss, said) in enumerate((("general_loss", "forgetting"), ("task_loss", "loss on the task"))):
            ax = grid[line * len(groups) + column]
            series = [
                Series(name, _changes(rows, kind, loss), colour, marker)
                for kind, (name, colour, marker) in KINDS.items()
            ]
            handles = spread(ax, series)
            ax.axhline(0, color=MUTED, linewidth=0.6, zorder=0)
            ax.axvline(1, color=MUTED, linewidth=0.6, linestyle=":", zorder=0)
            title = f"LoRA r = {rank}: {found:.0f} intruders" if line == 0 else ""
            words(ax, title=title, x="scale λ" if line else "", y=f"change of {said}" if column == 0 else "")
    for side_by_side in (grid[: len(groups)], grid[len(groups) :]):
        _alike(side_by_side)
    key(grid[0], handles, [name for name, *_ in KINDS.values()])
    return figure_of(grid[0])


def exchange(tables: Tables) -> Figure:
    """What is paid in task loss for each part of the forgetting taken back, by kind of scaling."""
    groups = _ranks(tables)
    grid = new_axes(DOUBLE, 2.6, columns=len(groups))
    kinds = {**KINDS, UPDATE: ("all of ΔW, scaled by λ", CATEGORIES[3], "D")}
    for ax, (rank, rows) in zip(grid, groups.items(), strict=True):
        handles = [_path(ax, rows, kind, colour, marker) for kind, (_, colour, marker) in kinds.items()]
        ax.axhline(0, color=MUTED, linewidth=0.6, zorder=0)
        ax.axvline(0, color=MUTED, linewidth=0.6, zorder=0)
        words(ax, title=f"LoRA r = {rank}", x=f"change of forgetting, {BITS}",
              y=f"change of task loss, {BITS}" if ax is grid[0] else "")  # fmt: skip
    key(grid[0], handles, [name for name, *_ in kinds.values()])
    return figure_of(grid[0])


def beside_the_paper(tables: Tables) -> Figure:
    """Share of the forgetting that goes with the top intruders at each scale, and the paper's Tables 3 and 4."""
    (ax,) = new_axes(SINGLE * 1.25, 2.9)
    shades = (CATEGORIES[0], CATEGORIES[5], CATEGORIES[2])
    series = [
        Series(f"ours, r = {rank}", _share(rows), shades[order % 3], MARKERS[order])
        for order, (rank, rows) in enumerate(_ranks(tables).items())
    ]
    theirs = [
        Series(f"paper, {model}", _by_scale(tasks), colour, marker, "--")
        for (model, tasks), colour, marker in zip(
            paper.FORGETTING_CHANGE.items(), (CATEGORIES[4], ALARM, CATEGORIES[3]), ("D", "v", "P"), strict=True
        )
    ]
    handles = spread(ax, [*series, *theirs], shift=0.008)
    ax.axhline(0, color=MUTED, linewidth=0.6, zorder=0)
    words(ax, title="Forgetting when the top intruders are scaled down", x="scale λ", y="change of forgetting, %")
    key(ax, handles, [one.name for one in (*series, *theirs)])
    return figure_of(ax)


def _ranks(tables: Tables) -> dict[int, list[Row]]:
    """The interventions on LoRA, by rank."""
    rows = [row for row in tables.rows("interventions") if row["rank"] is not None and row["intruders"]]
    if not rows:
        raise AbsentError("no intervention on a LoRA with intruders")
    return dict(sorted(grouped(rows, lambda row: row["rank"]).items()))


def _at(row: Row, kind: str, scale: float) -> Row | None:
    return next((one for one in row["scaled"] if (one["kind"], one["scale"]) == (kind, scale)), None)


def trained(row: Row) -> Row:
    """The losses of a run as it was trained."""
    found = _at(row, UPDATE, 1.0)
    if found is None:
        raise AbsentError(f"{row['id']} has no losses as trained")
    return found


def _each(rows: list[Row], kind: str, change: Callable[[Row, Row, Row], float]) -> dict[float, list[float]]:
    """A number of each run at each scale, from its row, its losses there and its losses as trained."""
    found: dict[float, list[float]] = {}
    for row in rows:
        for one in row["scaled"]:
            if one["kind"] == kind and one["task_loss"] is not None and DRAWN[0] <= one["scale"] <= DRAWN[1]:
                found.setdefault(one["scale"], []).append(change(row, one, trained(row)))
    return found


def _changes(rows: list[Row], kind: str, loss: str) -> dict[float, list[float]]:
    return {1.0: [0.0]} | _each(rows, kind, lambda _, one, start: one[loss] - start[loss])


def _share(rows: list[Row]) -> dict[float, list[float]]:
    def change(row: Row, one: Row, start: Row) -> float:
        without = _at(row, UPDATE, 0.0)
        if without is None:
            raise AbsentError(f"{row['id']} has no losses without its update")
        return 100 * float((one["general_loss"] - start["general_loss"]) /
                           (start["general_loss"] - without["general_loss"]))  # fmt: skip

    return {scale: values for scale, values in _each(rows, "top intruder", change).items() if scale < 1}


def _by_scale(tasks: dict[str, dict[float, float]]) -> dict[float, list[float]]:
    found: dict[float, list[float]] = {}
    for scales in tasks.values():
        for scale, value in scales.items():
            found.setdefault(scale, []).append(value)
    return found


def _path(ax: Axes, rows: list[Row], kind: str, colour: str, marker: str) -> Artist:
    x, y = ({1.0: [0.0]} | _changes(rows, kind, loss) for loss in ("general_loss", "task_loss"))
    scales = [scale for scale in sorted(x) if 0.25 <= scale <= 1]
    means = [[statistics.fmean(values[scale]) for scale in scales] for values in (x, y)]
    for scale in scales:
        ax.plot(x[scale], y[scale], ".", color=colour, markersize=2.6, markeredgewidth=0, alpha=0.6)
    return ax.plot(*means, color=colour, marker=marker, markersize=3.4, markeredgewidth=0, linewidth=1.1)[0]


def _alike(axes: list[Axes]) -> None:
    """Give axes side by side one range."""
    low, high = min(ax.get_ylim()[0] for ax in axes), max(ax.get_ylim()[1] for ax in axes)
    for ax in axes:
        ax.set_ylim(low, high)
        if ax is not axes[0]:
            ax.tick_params(labelleft=False)
