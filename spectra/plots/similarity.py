"""Similarity of base and tuned singular vectors of one matrix: the paper's own picture of an intruder."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from spectra.analysis.similarity_map import SimilarityMap
from spectra.plots.elements import PLAIN, colour_bar, nothing, safe, words
from spectra.plots.style import (
    ALARM,
    CATEGORIES,
    DOUBLE,
    INK,
    INTENSITY,
    LABEL,
    MUTED,
    SINGLE,
    SMALL,
    TALLEST,
    TICK,
    axes,
    figure_of,
    new_axes,
    tidy,
)

_ACROSS = 4
_STRIP = 0.24


def similarity(found: SimilarityMap, *, epsilon: float = 0.5, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Draw |cos| between the leading base and tuned vectors, with the best match of each tuned one above.

    How to read: a dark diagonal means that the leading directions survived; a column that stays pale, its mark
    above it orange and below the dashed line, is an intruder.

    Parameters
    ----------
    found : SimilarityMap
    epsilon : float, default 0.5
        A tuned vector whose best match over ALL base vectors is below it is an intruder.
    title : str, optional
        By default the matrix's name.
    ax : Axes, optional

    Returns
    -------
    Axes of the map. Its child axes are the strip above, where the dotted line is what chance gives, and the
    colour bar.

    References
    ----------
    Shuttleworth et al. 2024, arXiv:2410.21228, Figs. 1 and 2.
    """
    ax = axes(ax, SINGLE, 3.75)
    image = _panel(ax, found, epsilon, found.key if title is None else title, 32)
    if image is not None:
        colour_bar(image, ax, "similarity |cos|")
        words(ax, x=_direction("tuned", found.side), y=_direction("base", found.side))
    return ax


def similarity_panels(maps: Mapping[str, SimilarityMap], *, epsilon: float = 0.5) -> Figure:
    """Draw the maps of one matrix for several models side by side, on one colour scale.

    How to read: as `similarity`; the model with more orange marks holds more intruders in this matrix.
    """
    across = min(len(maps), _ACROSS)
    down = -(-len(maps) // across)
    width = SINGLE if across == 1 else DOUBLE
    panel = (width - 0.95) / across - 0.2
    height = min(0.4 + down * (panel * (1.06 + _STRIP) + 0.25), TALLEST)
    grid = new_axes(width, height, rows=down, columns=across)
    for place, (ax, (name, found)) in enumerate(zip(grid, maps.items(), strict=False)):
        image = _panel(ax, found, epsilon, name, 40 // across)
        if image is not None and place % across == across - 1:
            colour_bar(image, ax, "similarity |cos|")
    for ax in grid[len(maps) :]:
        ax.set_visible(False)
    figure = figure_of(grid[0])
    shown = next(iter(maps.values()))
    figure.suptitle(safe(shown.key, 90), fontsize=TICK, color=MUTED, **PLAIN)
    for write, which in ((figure.supxlabel, "tuned"), (figure.supylabel, "base")):
        write(_direction(which, shown.side), fontsize=LABEL, color=INK, **PLAIN)
    return figure


def _direction(which: str, side: str) -> str:
    return f"{which} {'output' if side == 'left' else 'input'} direction (1 = largest)"


def _panel(ax: Axes, found: SimilarityMap, epsilon: float, title: str, limit: int) -> AxesImage | None:
    n_base, n_tuned = found.values.shape
    if not found.values.size:
        nothing(ax, "no directions")
        return None
    extent = (0.5, n_tuned + 0.5, n_base + 0.5, 0.5)
    image = ax.imshow(found.values, cmap=INTENSITY, vmin=0, vmax=1, extent=extent, interpolation="none", aspect="auto")
    ax.set_box_aspect(1)
    ax.set(xticks=_counted(n_tuned), yticks=_counted(n_base))
    _strip(ax, found, epsilon, safe(title, limit))
    return image


def _counted(length: int) -> list[int]:
    """Return 1 and round numbers up to `length`."""
    step = next(step for step in (1, 2, 5, 10, 20) if length <= 7 * step or step == 20)
    return [1, *(number for number in range(step, length + 1, step) if number > 1)]


def _strip(ax: Axes, found: SimilarityMap, epsilon: float, title: str) -> None:
    """Draw the best match of every tuned vector above its column."""
    strip = ax.inset_axes((0, 1.05, 1, _STRIP))
    tidy(strip)
    position = np.arange(1, len(found.best) + 1)
    below = found.best < epsilon
    kept: dict[str, Any] = {"color": CATEGORIES[0], "marker": ".", "markersize": 3.0}
    gone: dict[str, Any] = {"color": ALARM, "marker": "v", "markersize": 2.6}
    for chosen, look in ((~below, kept), (below, gone)):
        strip.plot(position[chosen], found.best[chosen], linestyle="none", markeredgewidth=0, **look)
    strip.axhline(epsilon, color=MUTED, linewidth=0.6, linestyle="--", zorder=0)
    strip.axhline(found.null, color=MUTED, linewidth=0.6, linestyle=":", zorder=0)
    strip.set(xlim=ax.get_xlim(), ylim=(0, 1.05), xticks=[], yticks=[0, 1])
    words(strip, y="best match")
    strip.yaxis.label.set_fontsize(SMALL)
    strip.set_title(title, fontsize=TICK + 0.5, color=INK, loc="left", pad=3, **PLAIN)
    count, colour = f"{int(below.sum())} of these {len(below)} below {epsilon:g}", ALARM if below.any() else MUTED
    strip.set_title(count, fontsize=SMALL, color=colour, loc="right", pad=3, **PLAIN)
