"""The map of a model: a line for each block, a column for each kind of module, a number and a shade in each cell."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic

from spectra.metrics.layer import Layer
from spectra.plots.arrange import columns_of, line_names, line_of, lines_of, module_of, modules_of
from spectra.reports.page.sheet import EMPTY, MODULES, Cell, Row, heat
from spectra.text import show


@dataclass(frozen=True, slots=True)
class Measure(Generic[Row]):
    """What the cells can show.

    cell : of the measured matrices in a place, None where there is nothing to say. shade : of a value beside the least
    and the largest on the map, 0 to 1; ends : what the palest and the darkest shade mean, from the same two.
    """

    title: str
    cell: Callable[[Sequence[Row]], Cell | None]
    shade: Callable[[float, float, float], float]
    ends: Callable[[float, float], tuple[str, str]]


def share_of_intruders(title: str, layers: Callable[[Sequence[Row]], Sequence[Layer]]) -> Measure[Row]:
    """How many leading directions of the matrices in a place are intruders. layers : what was measured of its rows."""

    def cell(rows: Sequence[Row]) -> Cell | None:
        known = layers(rows)
        found, examined = sum(layer.found for layer in known), sum(layer.examined for layer in known)
        return Cell(str(found), found / examined) if examined else None

    return Measure(title, cell, lambda share, *_: share, lambda *_: ("none", "all directions"))


@dataclass(frozen=True, slots=True)
class Place:
    """The number of its first matrix in the table, how many there are, and what it shows of each measure."""

    first: int
    matrices: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class BlockMap:
    """measures : (title, what pale and what dark means); lines : (block, a place for each column).

    None in a line: fine-tuning touched no such matrix.
    """

    measures: tuple[tuple[str, str, str], ...]
    columns: tuple[str, ...]
    lines: tuple[tuple[str, tuple[Place | None, ...]], ...]


def block_map(rows: Sequence[Row], measures: Sequence[Measure[Row]]) -> BlockMap | None:
    """Return the map of rows, None where there is nothing to lay out: a single place, or nothing measured."""
    lines, module_at = lines_of(rows), modules_of(rows, MODULES)
    columns = columns_of(module_at)
    held: dict[tuple[int, int], list[int]] = {}
    line_at = {line: place for place, line in enumerate(lines)}
    column_at = {column: place for place, column in enumerate(columns)}
    for number, row in enumerate(rows):
        held.setdefault((line_at[line_of(row)], column_at[module_at[module_of(row)]]), []).append(number)
    if len(held) < 2:
        return None
    shown = []
    for measure in measures:
        cells = {at: _cell(measure, [rows[number] for number in numbers]) for at, numbers in held.items()}
        values = [cell.value for cell in cells.values() if cell.value is not None]
        if values:
            shown.append((measure, _shaded(cells, measure, min(values), max(values)), min(values), max(values)))
    if not shown:
        return None
    places = {
        at: Place(numbers[0], len(numbers), tuple(cells[at] for _, cells, _, _ in shown))
        for at, numbers in held.items()
    }
    return BlockMap(
        tuple((measure.title, *measure.ends(low, high)) for measure, _, low, high in shown),
        tuple(map(show, columns)),
        tuple(
            (show(name), tuple(places.get((line, column)) for column in range(len(columns))))
            for line, name in enumerate(line_names(lines))
        ),
    )


def _cell(measure: Measure[Row], rows: Sequence[Row]) -> Cell:
    measured = [row for row in rows if row.ok]
    return (measure.cell(measured) if measured else None) or EMPTY


def _shaded(
    cells: Mapping[tuple[int, int], Cell], measure: Measure[Row], low: float, high: float
) -> dict[tuple[int, int], Cell]:
    return {
        at: cell if cell.value is None else replace(cell, heat=heat(measure.shade(cell.value, low, high)))
        for at, cell in cells.items()
    }
