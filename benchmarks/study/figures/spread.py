"""The one way in which the study draws runs of several seeds: every seed a point, a bar from least to most."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes

from spectra.plots.elements import PLAIN, name_ticks
from spectra.plots.style import CATEGORIES, FAINT, INK, MARKERS, MUTED, SMALL, TICK, figure_of

PER_INCH, HANDLE = 20, 6  # signs of a legend that fit an inch; signs that a handle is as wide as


@dataclass(frozen=True)
class Series:
    """One named set of runs: at each place on the axis the values of its seeds."""

    name: str
    values: Mapping[float, Sequence[float]]
    colour: str = CATEGORIES[0]
    marker: str = MARKERS[0]
    line: str = "-"


def spread(ax: Axes, series: Sequence[Series], *, shift: float = 0.0) -> list[Artist]:
    """Draw series into axes: a line through the means, small points for the seeds, a bar from the least to the most.

    shift : moves each series sideways by this much against the one before, so that bars do not cover each other.
    Returns a handle for each.
    """
    handles: list[Artist] = []
    for order, one in enumerate(series):
        off = shift * (order - (len(series) - 1) / 2)
        at = sorted(one.values)
        look: dict[str, Any] = {"color": one.colour, "marker": one.marker, "markersize": 3.4, "markeredgewidth": 0}
        means = [statistics.fmean(one.values[x]) for x in at]
        handles += ax.plot([x + off for x in at], means, **look, linestyle=one.line, linewidth=1.1, zorder=3)
        for x in at:
            seeds = one.values[x]
            ax.vlines(x + off, min(seeds), max(seeds), color=one.colour, linewidth=0.9, zorder=2)
            ax.plot([x + off] * len(seeds), seeds, ".", color=one.colour, markersize=2.8, markeredgewidth=0, alpha=0.6,
                    zorder=2)  # fmt: skip
    return handles


def key(ax: Axes, handles: Sequence[Artist], names: Sequence[str]) -> None:
    """Name what is drawn in every panel once, above all of them."""
    figure = figure_of(ax)
    lines = math.ceil(sum(len(name) + HANDLE for name in names) / (PER_INCH * figure.get_figwidth()))
    columns = math.ceil(len(names) / lines)
    box = figure.legend(handles, names, loc="outside upper center", ncols=columns, fontsize=TICK, frameon=False,
                        columnspacing=1.2, handlelength=1.9, labelspacing=0.3, borderpad=0.2)  # fmt: skip
    for text in box.get_texts():
        text.set(color=INK, **PLAIN)


def places(ax: Axes, names: Sequence[object], *, apart: int | None = None) -> None:
    """Name the places 0, 1, 2 ... on the lower axis; those from `apart` on stand behind a thin line."""
    name_ticks(ax.xaxis, range(len(names)), names, fontsize=TICK)
    ax.set_xlim(-0.5, len(names) - 0.5)
    if apart is not None:
        ax.axvline(apart - 0.5, color=FAINT, linewidth=0.8, zorder=0)


def level(ax: Axes, value: float, text: str, *, above: bool = True) -> None:
    """Draw a thin level line and say at its left end what it is."""
    ax.axhline(value, color=MUTED, linewidth=0.7, linestyle=(0, (4, 2)), zorder=1)
    ax.annotate(text, (0, value), xycoords=("axes fraction", "data"), xytext=(2, 1.5 if above else -1.5),
                textcoords="offset points", ha="left", va="bottom" if above else "top", fontsize=SMALL, color=MUTED,
                **PLAIN)  # fmt: skip
