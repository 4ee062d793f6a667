"""Two tasks in one model, and a spike budget kept while training."""

from collections.abc import Callable

from matplotlib.figure import Figure

from benchmarks.study.figures.ranks import BITS, FULL_COLOUR, look
from benchmarks.study.figures.spread import Series, key, places, spread
from benchmarks.study.figures.tables import AbsentError, Row, Tables, grouped
from spectra.plots.elements import words
from spectra.plots.style import ALARM, CATEGORIES, DOUBLE, figure_of, new_axes


def sequence(tables: Tables) -> Figure:
    """Intruders and losses after the first task, the second alone, the second after the first, and the sum of both."""
    rows = tables.rows("together")
    first, second = rows[0]["tasks"]
    stages = {
        "first": first,
        "second": second,
        "second after first": f"then {second}",
        "sum": "sum of both",
    }
    groups = sorted(grouped(rows, lambda row: (row["method"], row["rank"])).items(), key=lambda one: one[0][1] or 1e9)
    grid = new_axes(DOUBLE, 3.1, columns=4)
    drawn = (
        ("Intruders", "of the whole model", ""),
        *((f"Loss: {text}", BITS, text) for text in (first, second, tables.general)),
    )
    for ax, (title, unit, text) in zip(grid, drawn, strict=True):
        series = [
            Series(
                "full" if rank is None else f"LoRA r = {rank}",
                {
                    at: [_number(row["stages"][stage], text) for row in own]
                    for at, stage in enumerate(stages)
                    if all(stage in row["stages"] for row in own)
                },
                *((FULL_COLOUR, "D", "--") if rank is None else look(order, len(groups) - 1)),
            )
            for order, ((_, rank), own) in enumerate(groups)
        ]
        handles = spread(ax, series)
        places(ax, list(stages.values()))
        ax.tick_params(axis="x", rotation=40)
        for label in ax.get_xticklabels():
            label.set_horizontalalignment("right")
        if not text:
            ax.set_ylim(0)
        else:
            ax.axhline(tables.base["losses"][text], color="#8A8A8A", linewidth=0.7, linestyle=":", zorder=0)
        words(ax, title=title, y=unit if ax in grid[:2] else "")
    key(grid[0], handles, [one.name for one in series])
    return figure_of(grid[0])


def _number(stage: Row, text: str) -> float:
    return float(stage["losses"][text] if text else stage["spectra"]["counts"]["count"])


def budget(tables: Tables) -> Figure:
    """Each run under a spike budget beside its pilot: intruders, task loss, and forgetting at equal task loss."""
    rows = tables.summary["budget"]
    if not rows:
        raise AbsentError("no run under a spike budget")
    start = float(tables.base["losses"][tables.general])
    ranks = sorted({row["rank"] for row in rows})
    grid = new_axes(DOUBLE, 2.5, columns=3)
    panels: tuple[tuple[str, str, Callable[[Row, str], float | None]], ...] = (
        ("Intruders", "of the whole model", lambda row, which: row[which]["intruders"]),
        ("Loss on the task", BITS, lambda row, which: row[which]["task_loss"]),
        ("Forgetting at that task loss", BITS, lambda row, which: _at_equal_loss(row, which, start)),
    )
    for ax, (title, unit, take) in zip(grid, panels, strict=True):
        series = []
        for which, name, colour, marker in (
            ("pilot", "one α (pilot)", CATEGORIES[0], "o"),
            ("budgeted", "α of each module kept below its first intruder", ALARM, "s"),
        ):
            values = {
                float(ranks.index(rank)): [value for row in own if (value := take(row, which)) is not None]
                for rank, own in grouped(rows, lambda row: row["rank"]).items()
            }
            series.append(Series(name, {at: own for at, own in values.items() if own}, colour, marker, "none"))
        handles = spread(ax, series, shift=0.3)
        places(ax, [f"r = {rank}" for rank in ranks])
        words(ax, title=title, y=unit)
        if "Loss" not in title:
            ax.set_ylim(0)
    key(grid[0], handles, [one.name for one in series])
    return figure_of(grid[0])


def _at_equal_loss(row: Row, which: str, start: float) -> float | None:
    """Forgetting at the budgeted run's task loss; None where the pilot never had that loss."""
    name = {"pilot": "pilot_general_at_equal_task_loss", "budgeted": "budgeted_general"}[which]
    both = row["pilot_general_at_equal_task_loss"] is not None
    return row[name] - start if both else None
