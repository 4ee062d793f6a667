"""The threshold law against the phase curve: predicted and measured critical scales."""

import numpy as np
from matplotlib.axes import Axes

from spectra.analysis.sweep import ModelSweep
from spectra.metrics.phase import PhaseCurve
from spectra.plots.arrange import columns_of, module_of, modules_of
from spectra.plots.elements import PLAIN, legend, legend_room, log_axis, nothing, words
from spectra.plots.style import FAINT, INK, MUTED, SINGLE, SMALL, axes, swatch
from spectra.text import percent

_MODULES = 7
_FACTOR = 2.0


def law(sweep: ModelSweep, *, ax: Axes | None = None) -> Axes:
    """Draw the critical scale that the threshold law predicts against the exact one, one point a matrix.

    How to read: on the line the law is right, in the band it is within a factor of two. Points above the line meet
    intruders before the law says so, because their update is not isotropic to the base; hollow points on the right
    edge have no crossing up to the largest scale swept.

    Parameters
    ----------
    sweep : ModelSweep
    ax : Axes, optional

    Returns
    -------
    Axes

    References
    ----------
    Benaych-Georges and Nadakuditi 2012; Xie, arXiv:2607.23711.
    """
    rows = [row for row in sweep.measured if row.law is not None]
    if not rows:
        return nothing(axes(ax), "no matrix with a law to compare")
    column = modules_of(rows, _MODULES)
    modules = columns_of(column)
    ax = axes(ax, SINGLE, 3.3 + legend_room(modules, SINGLE))
    places = [(_exact(row), row.law.critical) for row in rows if row.law is not None]
    every = [value for place in places for value in place]
    for axis in ("x", "y"):
        log_axis(ax, axis, min(every) / 1.25, max(every) * 1.25)
    ends = np.array(ax.get_xlim())
    ax.fill_between(ends, ends / _FACTOR, ends * _FACTOR, color=FAINT, linewidth=0, alpha=0.7, zorder=0)
    ax.plot(ends, ends, color=MUTED, linewidth=0.8, zorder=1)
    handles = []
    for order, name in enumerate(modules):
        look = {**swatch(order), "linestyle": "none", "markeredgewidth": 0.6, "alpha": 0.85, "markersize": 3.4}
        own = [(row, place) for row, place in zip(rows, places, strict=True) if column[module_of(row)] == name]
        for crossed in (True, False):
            points = [place for row, place in own if (row.critical is not None) is crossed]
            fill = {} if crossed else {"markerfacecolor": "none"}
            handle = ax.plot([x for x, _ in points], [y for _, y in points], **(look | fill))[0]
            if crossed:
                handles.append(handle)
    for line in (ax.axhline, ax.axvline):
        line(1, color=INK, linewidth=0.5, linestyle=(0, (4, 2)), zorder=1)
    words(ax, x="critical scale found", y="predicted by the threshold law")
    legend(ax, handles, modules, "The law against the curve")
    _note(ax, sweep)
    return ax


def _exact(row: PhaseCurve) -> float:
    return row.scales[-1] if row.critical is None else row.critical


def _note(ax: Axes, sweep: ModelSweep) -> None:
    found = sweep.law
    if found.share is None:
        return
    text = f"within a factor of 2: {found.within} of {found.compared} ({percent(found.share)})"
    ax.annotate(
        text, (0, 1), xycoords="axes fraction", xytext=(4, -3), textcoords="offset points", ha="left", va="top",
        fontsize=SMALL, color=MUTED, **PLAIN,
    )  # fmt: skip
