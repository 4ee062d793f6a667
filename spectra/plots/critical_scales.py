"""At which scale each matrix meets its first intruder: block by kind of module."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from spectra.analysis.sweep import ModelSweep
from spectra.metrics.phase import PhaseCurve
from spectra.plots.arrange import columns_of, line_names, line_of, lines_of, module_of, modules_of
from spectra.plots.elements import PLAIN, colour_bar, module_room, module_ticks, name_ticks, nothing, words
from spectra.plots.style import DOUBLE, FAINT, INK, MUTED, SINGLE, TALLEST, TICK, axes, figure_of

# Orange where intruders are there as trained, white at 1, blue where the update could grow.
DIVERGING = LinearSegmentedColormap.from_list("scale", ["#A33B00", "#E88A4A", "#FAF7F2", "#7FB3DA", "#0B4F8A"])
_MODULES, _NARROW, _SMALLEST = 24, 8, 3.5
_SPAN = 4.0  # the colours end a factor of this below and above 1
_BARS = (0.25, 0.5, 1.0, 2.0, 4.0)


def critical_scales(sweep: ModelSweep, *, ax: Axes | None = None) -> Axes:
    """Draw the critical scale of each block and module: the number in the cell, its colour on both sides of 1.

    How to read: an orange cell had its first intruder before the update reached the scale it was trained to, the
    darker the earlier; a blue one has room left. `>` means none up to the largest scale swept; hatched, that
    fine-tuning touched no such matrix; a dash, that it could not be swept or did not change.

    Parameters
    ----------
    sweep : ModelSweep
    ax : Axes, optional
        By default the axes of a new figure as tall as the model asks for, at most a page.

    Returns
    -------
    Axes

    Notes
    -----
    Where several matrices share a cell (experts, numbered sub-blocks), the one that crosses first. Numbers that would
    be too small to read are left out.
    """
    if not sweep.rows:
        return nothing(axes(ax), "no matrix was changed")
    lines, column = lines_of(sweep.rows), modules_of(sweep.rows, _MODULES)
    modules = columns_of(column)
    cells: dict[tuple[int, int], list[PhaseCurve]] = {}
    for row in sweep.rows:
        cells.setdefault((lines.index(line_of(row)), modules.index(column[module_of(row)])), []).append(row)
    width = SINGLE if len(modules) <= _NARROW else DOUBLE
    ax = axes(ax, width, min(0.6 + module_room(modules, width) + 0.16 * max(len(lines), 7), TALLEST))
    shade = np.ma.masked_invalid(np.full((len(lines), len(modules)), np.nan))
    for cell, rows in cells.items():
        if any(row.ok for row in rows):
            shade[cell] = _shade(rows)
    norm = LogNorm(1 / _SPAN, _SPAN, clip=True)
    image = ax.imshow(shade, cmap=DIVERGING, norm=norm, interpolation="none", aspect="auto")
    height = ax.get_window_extent().height / figure_of(ax).dpi * 72 * 0.95 / len(lines)
    _write(ax, cells, len(lines), len(modules), min(height * 0.75, TICK * 0.95))
    _names(ax, lines, height)
    module_ticks(ax, modules, width)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    words(ax, title="Scale at which intruders begin", x="kind of module", y="block")
    colour_bar(image, ax, "critical scale (1 = as trained)")
    _mark_bar(image)
    return ax


def _critical(rows: Sequence[PhaseCurve]) -> float | None:
    """The smallest critical scale of the matrices of a cell, None where none of them crosses."""
    return min((row.critical for row in rows if row.critical is not None), default=None)


def _shade(rows: Sequence[PhaseCurve]) -> float:
    found = _critical(rows)
    return rows[0].scales[-1] if found is None else max(found, 1e-9)


def _label(rows: Sequence[PhaseCurve]) -> str:
    if not any(row.ok for row in rows):
        return "–"
    found = _critical(rows)
    if found is None:
        return f">{rows[0].scales[-1]:g}"
    return f"{found:.2f}" if found < 9.95 else f"{found:.0f}"


def _write(ax: Axes, cells: dict[tuple[int, int], list[PhaseCurve]], lines: int, modules: int, size: float) -> None:
    for line in range(lines):
        for module in range(modules):
            rows = cells.get((line, module))
            if rows is None:
                corner = (module - 0.5, line - 0.5)
                ax.add_patch(Rectangle(corner, 1, 1, facecolor="white", edgecolor=FAINT, hatch="/////", linewidth=0))
            elif size >= _SMALLEST:
                text = ax.text(module, line, _label(rows), color=_ink(rows), fontsize=size, **PLAIN)
                text.set(ha="center", va="center", in_layout=False)


def _ink(rows: Sequence[PhaseCurve]) -> str:
    if not any(row.ok for row in rows):
        return MUTED
    return "white" if abs(np.log2(_shade(rows))) > 1.45 else INK


def _names(ax: Axes, lines: Sequence[Any], height: float) -> None:
    every, names = max(1, round(6.5 / height)), line_names(lines)
    shown = [place for place, line in enumerate(lines) if place % every == 0 or line.block is None]
    name_ticks(ax.yaxis, shown, [names[place] for place in shown], 22, fontsize=min(TICK, max(height * 0.75, 5)))


def _mark_bar(image: Any) -> None:
    """Plain numbers on the colour bar: halves and doubles, the ends open."""
    axis = image.colorbar.ax.yaxis
    axis.set_major_locator(FixedLocator(_BARS))
    axis.set_minor_locator(NullLocator())
    ends = {_BARS[0]: "≤ 0.25", _BARS[-1]: "≥ 4"}
    axis.set_major_formatter(FuncFormatter(lambda value, _: ends.get(value, f"{value:g}")))
