"""Rows put in the order figures need: lines of blocks, columns of modules. Nothing is measured here."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from spectra.analysis.diagnosis import Diagnosis
from spectra.metrics.layer import Layer
from spectra.metrics.place import Placed

OTHER = "other"
_NUMBER = re.compile(r"(?<![^.])\d+(?![^.])")


@dataclass(frozen=True, slots=True)
class Line:
    """A block of one stack; block None gathers every matrix outside the blocks."""

    stack: str
    block: int | None


def line_of(layer: Placed) -> Line:
    where = layer.place
    return Line(where.stack, where.block)


def lines_of(rows: Iterable[Placed]) -> list[Line]:
    """Return the lines in reading order: stacks as they appear, blocks ascending, the rest last."""
    found = dict.fromkeys(line_of(layer) for layer in rows)
    stacks = list(dict.fromkeys(line.stack for line in found))
    return sorted(found, key=lambda line: (line.block is None, stacks.index(line.stack), line.block or 0))


def line_names(lines: Sequence[Line]) -> list[str]:
    """Name lines by block number, with the stack before it only where there are several."""
    several = len({line.stack for line in lines if line.block is not None}) > 1
    return [
        OTHER if line.block is None else f"{line.stack} {line.block}" if several else str(line.block) for line in lines
    ]


def module_of(layer: Placed) -> str:
    """Return the kind of module, expert and sub-block numbers as `*`: `experts.*.w1`."""
    return _NUMBER.sub("*", layer.place.module)


def modules_of(rows: Iterable[Placed], limit: int) -> dict[str, str]:
    """Return module -> the column that shows it, in base order, matrices outside the blocks last.

    Above `limit` columns, the modules with fewest matrices share a last one called "other".
    """
    counts: Counter[str] = Counter()
    outside: dict[str, bool] = {}
    for layer in rows:
        name = module_of(layer)
        counts[name] += 1
        outside[name] = outside.get(name, True) and layer.place.block is None
    order = sorted(counts, key=lambda name: outside[name])
    if len(order) <= limit:
        return {name: name for name in order}
    kept = {name for name, _ in counts.most_common(limit - 1)}
    return {name: name if name in kept else OTHER for name in sorted(order, key=lambda name: name not in kept)}


def columns_of(modules: Mapping[str, str]) -> list[str]:
    return list(dict.fromkeys(modules.values()))


def measured(report: Diagnosis) -> list[Layer]:
    """Return the rows that hold measurements."""
    return [layer for layer in report.rows if layer.ok]


def joined(reports: Mapping[str, Diagnosis]) -> list[Layer]:
    """Return the measured rows of all models, one model after the other."""
    return [layer for report in reports.values() for layer in measured(report)]
