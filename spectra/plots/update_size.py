"""How far each block was moved, relative to the weights it started from."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from spectra.analysis.diagnosis import Diagnosis
from spectra.metrics.layer import Layer
from spectra.plots.arrange import columns_of, joined, line_names, line_of, lines_of, module_of, modules_of
from spectra.plots.elements import legend, legend_room, log_axis, module_room, name_ticks, nothing, words
from spectra.plots.style import DOUBLE, SINGLE, TICK, axes, swatch

_MODULES, _FLAT = 12, 24
_CROWDED = 40


@dataclass(frozen=True, slots=True)
class _Across:
    """Where each matrix stands along the x axis, and what is written there."""

    key: Callable[[Layer], Hashable]
    places: dict[Hashable, float]
    ticks: list[tuple[float, str]]
    upright: bool
    label: str


def update_size(reports: Mapping[str, Diagnosis], *, ax: Axes | None = None) -> Axes:
    """Draw ||dW|| / ||W0|| of every matrix by block: a line a module for one model, a colour a model for several.

    How to read: a rise towards the last blocks means that the task was learnt near the output; far below 0.01
    the update barely moved the weights, near 1 it replaced them.

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
    Frobenius norms, logarithmic axis. Updates of a base that is zero have no ratio and are left out. Matrices
    outside the blocks stand on the right, at "other"; a model without blocks is drawn module by module.

    References
    ----------
    Biderman et al. 2024, arXiv:2405.09673, sec. 4.5, on the size of full and low-rank updates.
    """
    rows = [layer for layer in joined(reports) if _ratio(layer)]
    if not rows:
        return nothing(axes(ax), "no update with a relative size")
    across = _by_block(rows) if any(layer.place.block is not None for layer in rows) else _by_module(rows)
    named, shifts = _groups(reports, rows)
    names = list(named) if len(named) > 1 else []
    width = SINGLE if len(named) * len(across.places) <= 6 * _CROWDED else DOUBLE
    below = module_room([name for _, name in across.ticks], 0) if across.upright else 0.35
    ax = axes(ax, width, 1.9 + legend_room(names, width) + below)
    handles = [
        _draw(ax, group, across, order, shift)
        for order, (group, shift) in enumerate(zip(named.values(), shifts, strict=True))
    ]
    log_axis(ax, "y", min(map(_ratio, rows)) / 1.3, max(map(_ratio, rows)) * 1.3)
    places, texts = [place for place, _ in across.ticks], [name for _, name in across.ticks]
    name_ticks(ax.xaxis, places, texts, 24, fontsize=TICK, rotation=90 if across.upright else 0)
    ax.set_xlim(-0.6, max(across.places.values()) + 0.6)
    words(ax, x=across.label, y="relative update ‖ΔW‖ / ‖W₀‖")
    legend(ax, handles if names else [], names, "Size of the update")
    return ax


def _ratio(layer: Layer) -> float:
    """The relative update, 0 where there is none to draw."""
    ratio = layer.norm.ratio if layer.ok and layer.norm else 0.0
    return ratio if math.isfinite(ratio) else 0.0


def _groups(reports: Mapping[str, Diagnosis], rows: Sequence[Layer]) -> tuple[dict[str, list[Layer]], list[float]]:
    """Return what shares a colour, models or the modules of one, and how far each stands from its tick."""
    if len(reports) > 1:
        every = {name: [layer for layer in report.rows if _ratio(layer)] for name, report in reports.items()}
        models = {name: found for name, found in every.items() if found}
        return models, [0.7 * ((order + 0.5) / len(models) - 0.5) for order in range(len(models))]
    inside = [layer for layer in rows if layer.place.block is not None]
    column = modules_of(inside, _MODULES)
    modules: dict[str, list[Layer]] = {name: [] for name in columns_of(column)}
    for layer in rows:
        modules.setdefault(column.get(module_of(layer), "outside the blocks" if inside else ""), []).append(layer)
    return modules, [0.0] * len(modules)


def _by_block(rows: Sequence[Layer]) -> _Across:
    """Blocks in order, as many of them named as there is room for; what is outside them set off a little."""
    lines = lines_of(rows)
    places: dict[Hashable, float] = {line: at + 0.8 * (line.block is None) for at, line in enumerate(lines)}
    names = dict(zip(lines, line_names(lines), strict=True))
    inside = [line for line in lines if line.block is not None]
    several = len({line.stack for line in inside}) > 1
    shown = inside[:: -(-len(inside) // (18 if several else 13))] + lines[len(inside) :]
    return _Across(line_of, places, [(places[line], names[line]) for line in shown], several, "block")


def _by_module(rows: Sequence[Layer]) -> _Across:
    column = modules_of(rows, _FLAT)
    modules = columns_of(column)
    places: dict[Hashable, float] = {name: float(modules.index(shown)) for name, shown in column.items()}
    ticks = [(float(at), name) for at, name in enumerate(modules)]
    return _Across(module_of, places, ticks, sum(map(len, modules)) > 40, "kind of module")


def _draw(ax: Axes, rows: Sequence[Layer], across: _Across, order: int, shift: float) -> Line2D:
    """Draw one group: joined by a line where it has one matrix a block of one stack, else as loose points."""
    points = sorted((across.places[across.key(layer)] + shift, _ratio(layer)) for layer in rows)
    stacks = {layer.place.stack for layer in rows}
    blocks = {layer.place.block for layer in rows} - {None}
    joined_up = shift == 0 and len(stacks) == 1 and len(blocks) == len(rows)
    loose: dict[str, Any] = {"linestyle": "none", "alpha": 0.75, "markeredgewidth": 0}
    crowded: dict[str, Any] = {"markersize": 0, "linewidth": 0.8} if len(rows) > _CROWDED else {}
    return ax.plot(*zip(*points, strict=True), **(swatch(order) | (crowded if joined_up else loose)))[0]
