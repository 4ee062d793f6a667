"""How many directions each update uses, beside the number it was given."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from spectra.analysis.diagnosis import Diagnosis
from spectra.metrics.ranks import Ranks
from spectra.plots.arrange import columns_of, joined, measured, module_of, modules_of
from spectra.plots.elements import legend, legend_room, log_axis, module_room, module_ticks, nothing, words
from spectra.plots.style import DOUBLE, FAINT, MUTED, SINGLE, axes, swatch

_MODULES, _NARROW, _POINTS = 24, 14, 36
Placed = list[tuple[float, Ranks]]


def rank(reports: Mapping[str, Diagnosis], *, ax: Axes | None = None) -> Axes:
    """Draw the effective rank of every update by kind of module, one point a matrix.

    How to read: points far below their bar leave most of the rank they were given unused; full fine-tuning has no
    bar and usually lies ten to a hundred times higher.

    Parameters
    ----------
    reports : dict of name -> Diagnosis
        A single report is a dict of one.
    ax : Axes, optional

    Returns
    -------
    Axes

    Notes
    -----
    The bar is the rank that an adapter was given; a thin line through a point is the interval of an estimated rank.
    The axis is logarithmic where models with and without such a rank stand together.

    References
    ----------
    Roy and Vetterli 2007 (effective rank); Shuttleworth et al. 2024, arXiv:2410.21228; Biderman et al. 2024,
    arXiv:2405.09673, sec. 4.5.
    """
    column = modules_of(joined(reports), _MODULES)
    modules = columns_of(column)
    shown = {name: rows for name, report in reports.items() if (rows := measured(report))}
    if not shown:
        return nothing(axes(ax), "no matrix was measured")
    width = SINGLE if len(modules) <= _NARROW and len(modules) * len(shown) <= _POINTS else DOUBLE
    ax = axes(ax, width, 1.9 + legend_room(list(shown), width) + module_room(modules, width))
    handles, every = [], []
    for order, rows in enumerate(shown.values()):
        shift = 0.8 * ((order + 0.5) / len(shown) - 0.5)
        placed = [(modules.index(column[module_of(layer)]) + shift, layer.rank) for layer in rows if layer.rank]
        handles.append(_draw(ax, placed, order, 0.36 / len(shown)))
        every += [ranks for _, ranks in placed]
    _scale(ax, every)
    for place in range(len(modules) - 1):
        ax.axvline(place + 0.5, color=FAINT, linewidth=0.4, zorder=0)
    ax.set_xlim(-0.5, len(modules) - 0.5)
    module_ticks(ax, modules, width)
    words(ax, x="kind of module", y="effective rank of ΔW")
    named = list(zip(handles, shown, strict=True)) if len(shown) > 1 else []
    if any(ranks.allotted for ranks in every):
        named.append((Line2D([], [], color=MUTED, linewidth=1.3), "rank given"))
    legend(ax, [handle for handle, _ in named], [name for _, name in named], "Rank that each update uses")
    return ax


def _draw(ax: Axes, placed: Placed, order: int, half: float) -> Line2D:
    """Draw one model's points, the intervals of those that are estimated, and the bars of its allotted ranks."""
    look = swatch(order) | {"linestyle": "none", "alpha": 0.75, "markeredgewidth": 0}
    (points,) = ax.plot([place for place, _ in placed], [ranks.effective for _, ranks in placed], **look)
    known = [(place, ranks.effective, ranks.error.effective) for place, ranks in placed if ranks.error]
    if known:
        places, lows, highs = zip(*((place, value - off, value + off) for place, value, off in known), strict=True)
        ax.vlines(places, lows, highs, color=look["color"], linewidth=0.8, zorder=1.8, label="_error")
    bars = sorted({(place, ranks.allotted) for place, ranks in placed if ranks.allotted})
    starts, ends = [place - half for place, _ in bars], [place + half for place, _ in bars]
    ax.hlines([allotted for _, allotted in bars], starts, ends, color=look["color"], linewidth=1.3, zorder=1.5)
    return points


def _scale(ax: Axes, every: Sequence[Ranks]) -> None:
    allotted = [ranks.allotted for ranks in every if ranks.allotted]
    used = [ranks.effective for ranks in every]
    if allotted and len(allotted) < len(every):
        log_axis(ax, "y", min(used) / 1.4, max(*used, *allotted) * 1.4)
    else:
        ax.set_ylim(0, max(*used, *allotted, 1.0) * 1.08)
        ax.yaxis.set_major_locator(MaxNLocator(6, integer=True))
