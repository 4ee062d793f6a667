"""The table of all matrices: what it has as columns, and what each of its rows can be found by."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from spectra.metrics.place import Placed
from spectra.plots.arrange import columns_of, line_names, line_of, lines_of, module_of, modules_of
from spectra.text import numbered, show

MODULES = 40  # kinds of module told apart, in the table's filter and in the map


class Matrix(Placed, Protocol):
    """A row of any result: a matrix with its place, and whether it was measured."""

    @property
    def key(self) -> str: ...

    @property
    def shape(self) -> tuple[int, int]: ...

    @property
    def status(self) -> str: ...

    @property
    def reason(self) -> str: ...

    @property
    def ok(self) -> bool: ...


Row = TypeVar("Row", bound=Matrix)


@dataclass(frozen=True, slots=True)
class Cell:
    """text : what is read; value : what it is sorted by, None last; heat : 0 to 5, the shade behind it."""

    text: str
    value: float | None
    heat: int = 0
    below: str = ""


EMPTY = Cell("–", None)


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """title : in the head; meaning : one sentence in the legend; cell : of a measured row, None where it has none."""

    title: str
    meaning: str
    cell: Callable[[Row], Cell | None]


@dataclass(frozen=True, slots=True)
class Line:
    """One matrix. number : in base order; positions : of its row in the page's JSON, by model ("" where one).

    codes : of the findings that concern it; findings : the same in words, each with its model.
    """

    number: int
    block: str
    module: str
    name: str
    key: str
    shape: str
    size: int
    status: str
    reason: str
    codes: tuple[str, ...]
    findings: str
    cells: tuple[Cell, ...]
    positions: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class Sheet:
    """The table and the choices of its filters."""

    columns: tuple[tuple[str, str], ...]
    lines: tuple[Line, ...]
    blocks: tuple[str, ...]
    modules: tuple[str, ...]
    statuses: tuple[str, ...]
    codes: tuple[str, ...]


def sheet(
    rows: Sequence[Row],
    columns: Sequence[Column[Row]],
    *,
    codes: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    positions: Sequence[tuple[tuple[str, int], ...]] | None = None,
) -> Sheet:
    """Lay out rows; columns in which no row has anything are left out.

    codes : of the findings that concern a matrix, by its numbered key and the model. positions : where the rows of
    other results than one diagnosis lie in the page's JSON.
    """
    positions = positions or [(("", number),) for number in range(len(rows))]
    every = [[column.cell(row) if row.ok else None for column in columns] for row in rows]
    kept = [place for place in range(len(columns)) if any(cells[place] is not None for cells in every)]
    lines_at = dict(zip(lines_of(rows), line_names(lines_of(rows)), strict=True))
    module_at = modules_of(rows, MODULES)
    known = [(codes or {}).get(numbered(row.key, row.index), {}) for row in rows]
    found = tuple(
        Line(
            number=number,
            block=show(lines_at[line_of(row)]),
            module=show(module_at[module_of(row)]),
            name=show(numbered(row.place.module, row.index), None),
            key=show(numbered(row.key, row.index), None),
            shape=f"{row.shape[0]} × {row.shape[1]}",
            size=row.shape[0] * row.shape[1],
            status=row.status,
            reason=show(row.reason, None),
            codes=_each_once(known[number]),
            findings=_in_words(known[number]),
            cells=tuple(cells[place] or EMPTY for place in kept),
            positions=positions[number],
        )
        for number, (row, cells) in enumerate(zip(rows, every, strict=True))
    )
    return Sheet(
        columns=tuple((columns[place].title, columns[place].meaning) for place in kept),
        lines=found,
        blocks=tuple(map(show, lines_at.values())),
        modules=tuple(map(show, columns_of(module_at))),
        statuses=tuple(dict.fromkeys(line.status for line in found)),
        codes=tuple(sorted({code for line in found for code in line.codes})),
    )


def heat(share: float) -> int:
    """Return the shade of a share of one: 0 for nothing, then 1 to 5."""
    return min(5, max(1, math.ceil(5 * share))) if share > 0 else 0


def number(value: float, digits: int = 3) -> Cell:
    """Return the cell of a plain number."""
    return Cell(f"{value:.{digits}g}", value)


def codes_of(findings: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, list[str]]]:
    """Return the codes of the findings that concern each matrix, by its numbered key and the model ("" where one)."""
    found: dict[str, dict[str, list[str]]] = {}
    for name, of_model in findings.items():
        for finding in of_model:
            for key in finding.keys:
                codes = found.setdefault(key, {}).setdefault(name, [])
                codes += [finding.code] if finding.code not in codes else []
    return found


def _each_once(codes: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    return tuple(sorted({code for held in codes.values() for code in held}))


def _in_words(codes: Mapping[str, Sequence[str]]) -> str:
    """The codes as the table shows them: 'r2: SP201 SP205; r32: SP204', without names where there is one model."""
    return "; ".join((f"{show(name, 32)}: " if name else "") + " ".join(held) for name, held in codes.items())
