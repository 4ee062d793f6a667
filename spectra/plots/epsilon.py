"""How the number of intruders depends on the threshold it is counted with."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from spectra.analysis.diagnosis import Diagnosis
from spectra.metrics.intruders import SWEEP_EPSILON
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
    The k is the report's own. Where a similarity is known as an interval (certified answers), the line counts the
    lower end, and the shade below it reaches to what the upper end leaves certain. The dashed line is the epsilon
    of the report; each grey tick is the expected similarity of a random direction in one matrix.

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
            threshold, least, most = zip(*points, strict=True)
            look = swatch(order)
            lines += ax.plot(threshold, most, **look, clip_on=False)
            if least != most:
                ax.fill_between(threshold, least, most, color=look["color"], alpha=0.15, linewidth=0, label="_open")
            names.append(name)
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.axvline(sides[0].epsilon, color=MUTED, linewidth=0.8, linestyle="--")
    ax.vlines([side.null for side in sides], 0.95, 1, color=MUTED, linewidth=0.5)
    words(ax, x="threshold ε on the similarity |cos|", y=f"share of top-{sides[0].k} directions below ε")
    _notes(ax, sides[0].epsilon, min(side.null for side in sides))
    legend(ax, lines if len(reports) > 1 else [], names, "Intruders by threshold")
    return ax


def shares(rows: list[Layer]) -> list[tuple[float, float, float]]:
    """Return (epsilon, share certainly below it, share that may be) over all rows and sides of one model."""
    sides = [side for layer in rows for side in layer.intruders]
    found = np.array([value for side in sides for value in side.similarity])
    bound = np.array([value for side in sides for value in side.similarity_bound])
    if not len(found):
        return []
    return [(epsilon, float((bound < epsilon).mean()), float((found < epsilon).mean())) for epsilon in SWEEP_EPSILON]


def _notes(ax: Axes, used: float, chance: float) -> None:
    """Name the dashed line beside its top, and the ticks below them."""
    text: dict[str, Any] = {"textcoords": "offset points", "va": "top", "fontsize": SMALL, "color": MUTED, **PLAIN}
    side = -1 if used > 0.85 else 1
    ax.annotate(f"ε = {used:g}", (used, 1), xytext=(3 * side, 0), ha="left" if side > 0 else "right", **text)
    ax.annotate("chance", (chance, 0.94), xytext=(0, 0), ha="center" if chance > 0.06 else "left", **text)
