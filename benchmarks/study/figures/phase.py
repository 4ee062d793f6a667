"""Intruders as an update grows from nothing, and what the threshold law says of the scale at which they appear."""

import numpy
from matplotlib.figure import Figure

from benchmarks.study.figures.ranks import look
from benchmarks.study.figures.spread import Series, key, spread
from benchmarks.study.figures.tables import AbsentError, Row, Tables, doubled, grouped
from spectra.plots.elements import PLAIN, log_axis, words
from spectra.plots.style import DOUBLE, FAINT, INK, MUTED, SMALL, figure_of, new_axes


def phase(tables: Tables) -> Figure:
    """Left: intruders of the model against the scale of its update. Right: the law against the exact critical scale."""
    swept = [row for row in tables.rows("phases") if row["rank"] is not None and doubled(row)]
    rate = min(row["learning_rate"] for row in swept) if swept else None
    groups = dict(
        sorted(grouped([row for row in swept if row["learning_rate"] == rate], lambda row: row["rank"]).items())
    )
    if not groups:
        raise AbsentError("no LoRA with alpha = 2r was swept")
    curve, law = new_axes(DOUBLE, 3.1, columns=2)
    series = [
        Series(f"LoRA r = {rank}", _totals(rows), *look(order, len(groups)))
        for order, (rank, rows) in enumerate(groups.items())
    ]
    handles = spread(curve, series)
    curve.axvline(1, color=INK, linewidth=0.7, linestyle=(0, (4, 2)), zorder=0)
    curve.set_ylim(0)
    words(curve, title="Intruders by the scale of the update", x="scale (1 = as trained)", y="intruders of the model")
    every = []
    for order, rows in enumerate(groups.values()):
        points = [(one["exact"], one["law"]) for row in rows for one in row["critical"] if one["exact"] and one["law"]]
        every += points
        colour, marker = look(order, len(groups))
        law.plot([x for x, _ in points], [y for _, y in points], marker, color=colour, markersize=2.4,
                 markeredgewidth=0, alpha=0.5)  # fmt: skip
    values = numpy.asarray(every)
    low, high = values.min() / 1.15, values.max() * 1.15
    ends = numpy.asarray([low, high])
    law.fill_between(ends, ends / 2, ends * 2, color=FAINT, linewidth=0, alpha=0.7, zorder=0)
    law.plot(ends, ends, color=MUTED, linewidth=0.8, zorder=1)
    log_axis(law, "x", low, high)
    log_axis(law, "y", low, high)
    ratio = values[:, 1] / values[:, 0]
    within = float(((ratio >= 0.5) & (ratio <= 2)).mean())
    law.annotate(f"within a factor of 2: {within:.0%} of {len(ratio)} matrices", (0, 1), xycoords="axes fraction",
                 xytext=(4, -3), textcoords="offset points", va="top", fontsize=SMALL, color=MUTED,
                 **PLAIN)  # fmt: skip
    words(law, title="The law, matrix by matrix", x="exact critical scale", y="predicted by the threshold law")
    key(curve, handles, [one.name for one in series])
    return figure_of(curve)


def _totals(rows: list[Row]) -> dict[float, list[float]]:
    found: dict[float, list[float]] = {}
    for row in rows:
        for scale, count in zip(row["scales"], row["totals"]["count"], strict=True):
            found.setdefault(scale, []).append(count)
    return {scale: counts for scale, counts in found.items() if len(counts) == len(rows)}
