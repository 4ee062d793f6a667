"""What happens over a run: intruders and losses at the steps that were looked at."""

from collections.abc import Callable, Iterable

from matplotlib.figure import Figure

from benchmarks.study.figures.ranks import BITS, FULL_COLOUR
from benchmarks.study.figures.spread import Series, key, spread
from benchmarks.study.figures.tables import AbsentError, Row, Tables, doubled, rate, spectra
from benchmarks.study.runs import FULL, LORA
from spectra.plots.elements import log_axis, words
from spectra.plots.style import CATEGORIES, DOUBLE, MARKERS, MUTED, figure_of, new_axes

Points = Iterable[tuple[int, float]]


def steps(tables: Tables) -> Figure:
    """Intruders, size of the update, forgetting and task loss by step (paper, Fig. 5, for whole models).

    The losses are those of every seed; spectra measured the saved steps of the first seed.
    """
    groups = _groups(tables)
    start = float(tables.base["losses"][tables.general])
    panels: tuple[tuple[str, str, Callable[[Row], Points]], ...] = (
        ("Intruders, first seed", "of the whole model", lambda row: _measured(row, "count")),
        ("Largest value of ΔW, first seed", "over that of W0, median", lambda row: _measured(row, "spectral_ratio")),
        ("Forgetting", BITS, lambda row: _looked(row, "general_loss", start)),
        ("Loss on the task", BITS, lambda row: _looked(row, "task_loss", 0.0)),
    )
    grid = new_axes(DOUBLE, 4.3, rows=2, columns=2)
    for ax, (title, unit, points) in zip(grid, panels, strict=True):
        series = [
            Series(name, _values(rows, points), colour, marker, "--" if name.startswith("full") else "-")
            for name, colour, marker, rows in groups
        ]
        handles = spread(ax, series)
        every = [step for one in series for step in one.values]
        log_axis(ax, "x", min(every) / 1.2, max(every) * 1.2)
        if title != "Loss on the task":
            ax.set_ylim(0)
        words(ax, title=title, x="step" if ax in grid[2:] else "", y=unit)
    key(grid[0], handles, [name for name, *_ in groups])
    return figure_of(grid[0])


def _groups(tables: Tables) -> list[tuple[str, str, str, list[Row]]]:
    """The configurations with saved steps, LoRA by rank and full by rate: name, colour, marker, runs of every seed."""
    saved = [row for row in tables.main if row["checkpoints"]]
    if not saved:
        raise AbsentError("no run has saved steps")
    colours = {LORA: iter(CATEGORIES), FULL: iter((FULL_COLOUR, MUTED))}
    found = []
    for order, first in enumerate(sorted(saved, key=lambda row: (row["method"] == FULL, row["rank"] or 0))):
        same = [row for row in tables.main if _configuration(row) == _configuration(first)]
        found.append((_name(first), next(colours[first["method"]]), MARKERS[order % len(MARKERS)], same))
    return found


def _name(row: Row) -> str:
    if row["method"] == FULL:
        return f"full, {rate(row['learning_rate'])}"
    return f"LoRA r = {row['rank']}, α = {'2r' if doubled(row) else row['alpha']}"


def _configuration(row: Row) -> tuple[object, ...]:
    return row["method"], row["rank"], row["alpha"], row["learning_rate"]


def _measured(row: Row, name: str) -> Points:
    if row["checkpoints"]:
        yield from ((one["step"], spectra(name)(one)) for one in row["checkpoints"])
        yield row["steps"], spectra(name)(row)


def _looked(row: Row, name: str, less: float) -> Points:
    return ((look["step"], look[name] - less) for look in row["history"] if look["step"] > 0)


def _values(rows: list[Row], points: Callable[[Row], Points]) -> dict[float, list[float]]:
    found: dict[float, list[float]] = {}
    for row in rows:
        for step, value in points(row):
            found.setdefault(step, []).append(value)
    return found
