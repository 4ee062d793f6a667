"""Which tuned direction resembles which base direction: the maps of single matrices, one panel a run."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from benchmarks.study.figures.tables import AbsentError, Row, Tables, rate
from spectra.plots.elements import PLAIN, words
from spectra.plots.style import ALARM, CATEGORIES, DOUBLE, INK, INTENSITY, LABEL, MUTED, TICK, figure_of, new_axes

KEPT = 0
SHOWN = 40  # directions of each side in a map
MAP = "map_"
LEFT, RIGHT, TOP, BOTTOM, GAP = 0.65, 0.6, 0.35, 0.45, 0.12  # inches


@dataclass(frozen=True)
class Map:
    """|cos| of base directions (rows) and tuned ones (columns), and the columns that are intruders.

    Verdicts reach as far as the study's k: 10 columns of 64.
    """

    key: str
    values: numpy.ndarray
    similarity: numpy.ndarray
    intruders: numpy.ndarray
    examined: int


def maps(tables: Tables, run: Row) -> dict[str, Map]:
    """The maps of a run by kind of module."""
    arrays = tables.arrays(run["id"])
    found = {}
    for module in (name.removeprefix(MAP) for name in arrays if name.startswith(MAP)):
        keys = sorted(key for key in map(str, arrays["keys"]) if key.endswith(f".{module}.weight"))
        at = list(map(str, arrays["keys"])).index(keys[len(keys) // 2])
        verdict = arrays["verdict"][at]
        found[module] = Map(
            keys[len(keys) // 2],
            arrays[MAP + module].astype(numpy.float32),
            arrays["similarity"][at],
            numpy.flatnonzero(verdict != KEPT),
            len(verdict),
        )
    return found


def traced(tables: Tables) -> list[Row]:
    """The runs that have maps: LoRA by rank, then full fine-tuning by rate."""
    return sorted(tables.rows("details"), key=lambda row: (row["rank"] is None, row["rank"] or 0, row["learning_rate"]))


def name(run: Row) -> str:
    return f"full, {rate(run['learning_rate'])}" if run["rank"] is None else f"LoRA r = {run['rank']}"


def similarity(tables: Tables) -> Figure:
    """Maps of the middle block: a line a kind of module, a column a run."""
    runs = traced(tables)
    found = [maps(tables, run) for run in runs]
    modules = list(found[0])
    across, down = len(runs), len(modules)
    side = (DOUBLE - LEFT - RIGHT - GAP * (across - 1)) / across
    height = TOP + side * down + GAP * (down - 1) + BOTTOM
    grid = new_axes(DOUBLE, height, rows=down, columns=across)
    for at, ax in enumerate(grid):
        line, column = divmod(at, across)
        ax.set_position(
            (
                (LEFT + column * (side + GAP)) / DOUBLE,
                (BOTTOM + (down - 1 - line) * (side + GAP)) / height,
                side / DOUBLE,
                side / height,
            )
        )
        image = _panel(ax, found[column][modules[line]])
        ax.tick_params(labelbottom=line == down - 1, labelleft=column == 0)
        if line == 0:
            words(ax, title=name(runs[column]), pad=8)
        if column == 0:
            words(ax, y=modules[line])
    figure = figure_of(grid[0])
    bar = figure.colorbar(image, cax=figure.add_axes((1 - 0.8 * RIGHT / DOUBLE, 0.35, 0.012, 0.3)))
    bar.set_label("similarity |cos|", fontsize=LABEL, color=INK)
    bar.ax.tick_params(labelsize=TICK, width=0.6, length=2.5)
    bar.ax.spines["outline"].set_visible(False)
    figure.supxlabel("tuned direction (1 = largest); ▼ intruder", y=0.02, fontsize=LABEL, color=INK, **PLAIN)
    figure.supylabel("base direction (1 = largest)", x=0.01, fontsize=LABEL, color=INK, **PLAIN)
    return figure


def _panel(ax: Axes, found: Map) -> AxesImage:
    shown = found.values[:SHOWN, :SHOWN]
    rows, columns = shown.shape
    extent = (0.5, columns + 0.5, rows + 0.5, 0.5)
    image = ax.imshow(shown, cmap=INTENSITY, vmin=0, vmax=1, extent=extent, interpolation="none")
    ax.set(xticks=[1, 10, 20, 30, 40], yticks=[1, 10, 20, 30, 40])
    ax.plot(found.intruders + 1, [-0.7] * len(found.intruders), "v", color=ALARM, markersize=3.2, markeredgewidth=0,
            clip_on=False)  # fmt: skip
    ax.set(xlim=extent[:2], ylim=extent[2:])
    return image


def profile(tables: Tables) -> Figure:
    """The cosines of one intruder and of the next direction that is none with each base direction."""
    run, found, intruder, neighbour = _example(tables)
    (ax,) = new_axes(3.4, 2.5)
    index = numpy.arange(1, len(found.values) + 1)
    for at, colour, what in ((neighbour, CATEGORIES[0], "kept"), (intruder, ALARM, "intruder")):
        heights = found.values[:, at]
        said = f"direction {at + 1}, {what}: at most {found.similarity[at]:.2f}"
        ax.vlines(index, 0, heights, color=colour, linewidth=1.3, label=said, alpha=0.85)
    ax.axhline(0.5, color=MUTED, linewidth=0.7, linestyle="--", zorder=0)
    ax.set(ylim=(0, 1.02), xlim=(0, len(index) + 1))
    ax.legend(fontsize=TICK, frameon=False, loc="upper right", title=found.key, title_fontsize=TICK)
    words(ax, title=f"{name(run)}: an intruder and its neighbour", x="base direction (1 = largest)", y="|cos|")
    return figure_of(ax)


def _example(tables: Tables) -> tuple[Row, Map, int, int]:
    """The largest intruder of the maps of LoRA with the least rank that has one, and the next direction kept."""
    for run, found in _mapped(tables):
        for intruder in found.intruders:
            after = [at for at in range(int(intruder) + 1, found.examined) if at not in found.intruders]
            if after:
                return run, found, int(intruder), after[0]
    raise AbsentError("no map has an intruder")


def _mapped(tables: Tables) -> Iterator[tuple[Row, Map]]:
    for run in traced(tables):
        for found in sorted(maps(tables, run).values(), key=lambda one: -len(one.intruders)):
            yield run, found
