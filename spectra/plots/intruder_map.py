"""Where the intruders sit: block by kind of module."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from spectra.analysis.diagnosis import Diagnosis
from spectra.metrics.layer import Layer
from spectra.plots.arrange import Line, columns_of, line_names, line_of, lines_of, module_of, modules_of
from spectra.plots.elements import PLAIN, colour_bar, module_room, module_ticks, name_ticks, nothing, words
from spectra.plots.style import DOUBLE, FAINT, INK, INTENSITY, MUTED, SINGLE, TALLEST, TICK, axes, figure_of

_MODULES, _NARROW = 24, 14
_SMALLEST = 3.5


@dataclass(frozen=True, slots=True)
class _Grid:
    """Each cell's intruders, directions examined, and matrices (measured or not)."""

    lines: list[Line]
    modules: list[str]
    found: NDArray[np.int64]
    examined: NDArray[np.int64]
    matrices: NDArray[np.int64]


def intruder_map(report: Diagnosis, *, ax: Axes | None = None) -> Axes:
    """Draw the intruders of each block and module: the number in the cell, their share as its shade.

    How to read: a dark line is a block, a dark column a kind of module whose leading directions were replaced;
    hatched means that fine-tuning touched no such matrix, a dash that it could not be measured or did not change.

    Parameters
    ----------
    report : Diagnosis
        Intruders are counted as the paper counts them, over all sides asked for.
    ax : Axes, optional
        By default the axes of a new figure as tall as the model asks for, at most a page.

    Returns
    -------
    Axes

    Notes
    -----
    Experts and other numbered sub-blocks share the column of their kind (`experts.*.w1`). Matrices outside the
    blocks are on the line "other". Numbers that would be too small to read are left out.

    References
    ----------
    Shuttleworth et al. 2024, arXiv:2410.21228, Definition 3.1.
    """
    if not report.rows:
        return nothing(axes(ax), "no matrix was changed")
    grid = _grid(report.rows)
    n_lines, n_modules = grid.found.shape
    width = SINGLE if n_modules <= _NARROW else DOUBLE
    ax = axes(ax, width, min(0.6 + module_room(grid.modules, width) + 0.15 * max(n_lines, 7), TALLEST))
    share = np.ma.masked_where(grid.examined == 0, grid.found / np.maximum(grid.examined, 1))
    image = ax.imshow(share, cmap=INTENSITY, vmin=0, vmax=1, interpolation="none", aspect="auto")
    size = _line_height(ax, n_lines) * 0.75
    _missing(ax, grid)
    if size >= _SMALLEST:
        _numbers(ax, grid, share, min(size, TICK))
    every = max(1, round(6.5 / (size / 0.75)))
    names = line_names(grid.lines)
    shown = [place for place, line in enumerate(grid.lines) if place % every == 0 or line.block is None]
    name_ticks(ax.yaxis, shown, [names[place] for place in shown], 22, fontsize=min(TICK, max(size, 5)))
    module_ticks(ax, grid.modules, width)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    words(ax, title="Intruders by block and module", x="kind of module", y="block")
    colour_bar(image, ax, "intruders / examined")
    return ax


def _grid(rows: Sequence[Layer]) -> _Grid:
    lines, column = lines_of(rows), modules_of(rows, _MODULES)
    modules = columns_of(column)
    found, examined, matrices = (np.zeros((len(lines), len(modules)), dtype=np.int64) for _ in range(3))
    for layer in rows:
        cell = lines.index(line_of(layer)), modules.index(column[module_of(layer)])
        found[cell] += layer.found
        examined[cell] += layer.examined
        matrices[cell] += 1
    return _Grid(lines, modules, found, examined, matrices)


def _line_height(ax: Axes, n_lines: int) -> float:
    """Height of one line in points; names below the axes take what constrained layout gives them."""
    figure = figure_of(ax)
    return ax.get_window_extent().height / figure.dpi * 72 * 0.95 / n_lines


def _missing(ax: Axes, grid: _Grid) -> None:
    for line, module in np.argwhere(grid.matrices == 0).tolist():
        corner = (module - 0.5, line - 0.5)
        ax.add_patch(Rectangle(corner, 1, 1, facecolor="white", edgecolor=FAINT, hatch="/////", linewidth=0))


def _numbers(ax: Axes, grid: _Grid, share: Any, size: float) -> None:
    for line, module in np.argwhere(grid.matrices > 0).tolist():
        examined, found = grid.examined[line, module], grid.found[line, module]
        dark = examined and share[line, module] > 0.45
        colour = "white" if dark else INK if found else MUTED
        text = ax.text(module, line, str(found) if examined else "–", color=colour, fontsize=size, **PLAIN)
        text.set(ha="center", va="center_baseline" if not examined else "center", in_layout=False)
