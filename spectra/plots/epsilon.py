"""How the number of intruders depends on the threshold it is counted with."""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes

from spectra.analysis.diagnosis import Diagnosis
from spectra.metrics.intruders import Intruders
from spectra.metrics.layer import Layer
from spectra.plots.arrange import joined, measured
from spectra.plots.elements import PLAIN, legend, legend_room, nothing, words
from spectra.plots.style import MUTED, SINGLE, SMALL, axes, swatch


def epsilon(reports: Mapping[str, Diagnosis], *, ax: Axes | None = None) -> Axes:
    """Draw the share of leading directions that count as intruders, against the threshold epsilon.

    How to read: a curve that rises left of the dashed line and far right of the grey ticks is a finding that
    does not hang on the threshold; at the ticks, even random directions would count.

    Parameters
    ----------
    reports : dict of name -> Diagnosis
        One line a model. A single report is a dict of one.
    ax : Axes, optional

    Returns
    -------
    Axes

    Notes
    -----
    Counts are those of the sweep kept in each row, at the k nearest to the report's own. The dashed line is the
    epsilon of the report; each grey tick is the expected similarity of a random direction in one matrix.

    References
    ----------
    Shuttleworth et al. 2024, arXiv:2410.21228, Fig. 4.
    """
    names = list(reports) if len(reports) > 1 else []
    ax = axes(ax, SINGLE, 2.3 + legend_room(names, SINGLE))
    sides = [side for layer in joined(reports) for side in layer.intruders]
    if not sides:
        return nothing(ax, "no matrix was measured")
    lines, names = [], []
    for order, (name, report) in enumerate(reports.items()):
        points = shares(measured(report))
        if points:
            lines += ax.plot(*zip(*points, strict=True), **swatch(order), clip_on=False)
            names.append(name)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.axvline(sides[0].epsilon, color=MUTED, linewidth=0.8, linestyle="--")
    ax.vlines([side.null for side in sides], 0.95, 1, color=MUTED, linewidth=0.5)
    words(ax, x="threshold ε on the similarity |cos|", y=f"share of top-{nearest_k(sides[0])} directions below ε")
    _notes(ax, sides[0].epsilon, min(side.null for side in sides))
    legend(ax, lines if len(reports) > 1 else [], names, "Intruders by threshold")
    return ax


def nearest_k(side: Intruders) -> int:
    """Return the k of the sweep that is nearest to the k asked for, the smaller of two."""
    return min(side.sweep_k, key=lambda k: (abs(k - side.k), k))


def shares(rows: list[Layer]) -> list[tuple[float, float]]:
    """Return (epsilon, share of directions below it) over all rows and sides of one model."""
    below: dict[float, int] = {}
    examined = 0
    for layer in rows:
        for side in layer.intruders:
            k = nearest_k(side)
            examined += min(k, *layer.shape)
            for threshold, count in zip(side.sweep_epsilon, side.sweep[side.sweep_k.index(k)], strict=True):
                below[threshold] = below.get(threshold, 0) + count
    return [(threshold, count / examined) for threshold, count in below.items()] if examined else []


def _notes(ax: Axes, used: float, chance: float) -> None:
    """Name the dashed line beside its top, and the ticks below them."""
    text: dict[str, Any] = {"textcoords": "offset points", "va": "top", "fontsize": SMALL, "color": MUTED, **PLAIN}
    side = -1 if used > 0.85 else 1
    ax.annotate(f"ε = {used:g}", (used, 1), xytext=(3 * side, 0), ha="left" if side > 0 else "right", **text)
    ax.annotate("chance", (chance, 0.94), xytext=(0, 0), ha="center" if chance > 0.06 else "left", **text)
