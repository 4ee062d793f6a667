"""Singular values of a base weight, the tuned weight and the update between them."""

from typing import Any

from matplotlib.axes import Axes

from spectra.metrics.layer import Layer
from spectra.plots.elements import PLAIN, legend, log_axis, nothing, power, safe, words
from spectra.plots.style import CATEGORIES, MUTED, SMALL, axes
from spectra.text import numbered

_DECADES = 1e-7  # of its largest value; what is smaller is the rounding of a float32 decomposition
_REACH = 1 / 30
_MARKED = 32


def spectrum(layer: Layer, *, ax: Axes | None = None) -> Axes:
    """Draw the spectra of W0, W and dW of one matrix, both axes logarithmic.

    How to read: where the curve of the update lies above the base's, it can put directions of its own among
    the leading ones; what lies below the dashed line may be rounding of the file, not training.

    Parameters
    ----------
    layer : Layer
        One measured row; values of zero are left out.
    ax : Axes, optional
        By default the axes of a new figure one column wide.

    Returns
    -------
    Axes

    Notes
    -----
    The dashed line is `Floor.edge`, drawn where it comes near the smallest value shown (within a factor of 30).

    References
    ----------
    Shuttleworth et al. 2024, arXiv:2410.21228, sec. 3; Marchenko-Pastur edge of rounding noise.
    """
    ax = axes(ax)
    found = layer.spectrum
    title = safe(numbered(layer.name, layer.index), 52)
    top = max((*found.base, *found.tuned, *found.update), default=0.0) if found else 0.0
    if found is None or top <= 0:
        return nothing(ax, f"not measured: {safe(layer.status)}")
    mark = "o" if len(found.update) <= _MARKED else ""
    looks: tuple[tuple[str, tuple[float, ...], dict[str, Any]], ...] = (
        ("base W₀", found.base, {"color": CATEGORIES[0], "linewidth": 2.4, "alpha": 0.45}),
        ("tuned W", found.tuned, {"color": CATEGORIES[6], "linewidth": 0.9}),
        ("update ΔW", found.update, {"color": CATEGORIES[1], "linewidth": 1.1, "marker": mark, "markersize": 1.8}),
    )
    handles, names, lowest = [], [], top
    for name, values, look in looks:
        least = _DECADES * max(values, default=0.0)
        points = [(index, value) for index, value in zip(found.index, values, strict=False) if value > least]
        handles += ax.plot(*zip(*points, strict=True), **look) if points else []
        names += [name] if points else []
        lowest = min([lowest, *(value for _, value in points)])
    low, high = _floor(ax, layer, lowest, top)
    log_axis(ax, "x", 0.9, max(found.index) * 1.1)
    log_axis(ax, "y", low / 1.6, high * 1.6)
    words(ax, x="index of singular value (1 = largest)", y="singular value")
    legend(ax, handles, names, title)
    return ax


def _floor(ax: Axes, layer: Layer, lowest: float, highest: float) -> tuple[float, float]:
    """Draw the rounding floor where it is near the data; return the span of what is drawn."""
    edge = layer.floor.edge if layer.floor else 0.0
    if layer.floor is None or edge < lowest * _REACH:
        return lowest, highest
    what = safe(layer.floor.dtype) if layer.floor.limited_by == "files" else "the computation"
    ax.axhline(edge, color=MUTED, linewidth=0.8, linestyle="--")
    ax.text(
        0.99,
        edge,
        f"rounding floor of {what}, {power(float(f'{edge:.1g}'))}",
        transform=ax.get_yaxis_transform(),
        ha="right",
        va="bottom",
        fontsize=SMALL,
        color=MUTED,
        **PLAIN,
    )
    return min(lowest, edge), max(highest, edge)
