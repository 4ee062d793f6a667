"""What two updates share: the map of their leading spaces in one matrix, and block by block."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spectra.analysis.overlap import ModelOverlap
from spectra.engine.resemblance import SIDES
from spectra.metrics.overlap import Overlap
from spectra.plots.arrange import OTHER
from spectra.plots.elements import PLAIN, colour_bar, legend, nothing, safe, words
from spectra.plots.style import DOUBLE, INTENSITY, MUTED, SINGLE, SMALL, axes, figure_of, new_axes, swatch
from spectra.text import numbered

_TITLES = {"left": "output directions", "right": "input directions"}


def overlap_map(row: Overlap, *, labels: tuple[str, str] = ("first", "second")) -> Figure:
    """Draw phi(i, j) of one matrix on both sides, as LoRA's Figure 3 does.

    How to read: the colour at (j, i) says how much the i leading directions of the first update and the j of the
    second have in common, 1 where the fewer lie within the others. Dark in the lower left corner alone: the strongest
    directions agree and the rest is each run's own.

    Parameters
    ----------
    row : Overlap. labels : names of the first and the second model.

    Returns
    -------
    Figure with two axes, left and right.

    Notes
    -----
    By chance phi(i, j) is `max(i, j) / m` for directions of R^m. Input directions of two runs from one seed share
    LoRA's random start.

    References
    ----------
    Hu et al. 2021, arXiv:2106.09685, section 7.2, Figure 3.
    """
    grid = new_axes(DOUBLE, 3.0, columns=2)
    if not row.sides:
        nothing(grid[1], "")
        return figure_of(nothing(grid[0], f"not compared: {safe(row.reason or row.status, 60)}"))
    for ax, side in zip(grid, SIDES, strict=True):
        values = np.array(row.side(side).phi)
        rows, columns = values.shape
        image = ax.imshow(
            values, cmap=INTENSITY, vmin=0, vmax=1, origin="lower", aspect="auto", interpolation="nearest",
            extent=(0.5, columns + 0.5, 0.5, rows + 0.5),
        )  # fmt: skip
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        names = [safe(label, 24) for label in labels]
        words(ax, x=f"j, leading directions of {names[1]}", y=f"i, of {names[0]}")
        words(ax, title=f"{_TITLES[side]}: φ({row.k}, {row.k}) = {row.side(side).shared:.2f}", pad=14)
        ax.annotate(
            safe(numbered(row.key, row.index), 52), (0, 1), xycoords="axes fraction", xytext=(0, 4),
            textcoords="offset points", ha="left", va="bottom", fontsize=SMALL, color=MUTED, **PLAIN,
        )  # fmt: skip
    colour_bar(image, grid[1], "φ(i, j)")
    return figure_of(grid[0])


def overlap_by_block(found: ModelOverlap, *, ax: Axes | None = None) -> Axes:
    """Draw what the leading directions of two updates share, block by block: the median over a block's matrices.

    How to read: a line near 1 says that both runs use the same directions there, one at its dotted line (chance) that
    they have nothing in common. Matrices outside the blocks stand last.

    Parameters
    ----------
    found : ModelOverlap
    ax : Axes, optional

    Returns
    -------
    Axes
    """
    if not found.measured:
        return nothing(axes(ax), "no matrix with two updates to compare")
    ax = axes(ax, SINGLE, 2.6)
    handles = []
    for order, side in enumerate(SIDES):
        blocks = found.by_block(side)
        place = range(len(blocks))
        look = swatch(order)
        handles += ax.plot(place, [shared for _, shared, _ in blocks], **look)
        ax.plot(place, [chance for _, _, chance in blocks], color=look["color"], linewidth=0.8, linestyle=":")
    names = [OTHER if block is None else str(block) for block, _, _ in blocks]
    every = -(-len(names) // 16)
    ax.set_xticks(range(0, len(names), every), labels=names[::every], **PLAIN)
    ax.set_ylim(0, 1.02)
    words(ax, x="block", y="shared, φ(k, k)")
    legend(ax, handles, [_TITLES[side] for side in SIDES], "Leading directions in common; dotted: chance")
    return ax
