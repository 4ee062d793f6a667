"""Walk an update, alone or beside its base, a few rows at a time: no sum costs a second copy of a matrix."""

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from spectra.engine.threads import one_thread, side_by_side
from spectra.updates import Update

Blocks = Iterator[tuple[torch.Tensor, torch.Tensor]]
Result = TypeVar("Result")
_ELEMENTS = 2**17


def update_blocks(update: torch.Tensor | Update) -> Iterator[torch.Tensor]:
    """Yield an update [m, n] in blocks of rows of at most about 2^17 entries; factors are multiplied block by block."""
    yield from _blocks(*_parts(update), update.shape[1])


def _parts(update: torch.Tensor | Update) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return a matrix whose rows are those of the update, or become so when multiplied by the other one."""
    if isinstance(update, torch.Tensor):
        return update, None
    return (update.dense(), None) if update.factors is None else update.factors


def _blocks(left: torch.Tensor, right: torch.Tensor | None, columns: int) -> Iterator[torch.Tensor]:
    step = _step(columns)
    for first in range(0, left.shape[0], step):
        rows = left[first : first + step]
        yield rows if right is None else rows @ right


def _step(columns: int) -> int:
    return max(1, _ELEMENTS // max(columns, 1))


def over_rows(measure: Callable[[Blocks], Result], base: torch.Tensor, update: torch.Tensor | Update) -> list[Result]:
    """Apply a measure to the rows of a base and its update, both [m, n], in spans; return one result a span.

    A measure is given the same rows of both, a block at a time. Spans run side by side on one thread each: threads
    that share a block of this size wait for each other longer than they compute.
    """
    (m, n), (left, right) = base.shape, _parts(update)
    spans = max(1, min(torch.get_num_threads(), m // _step(n)))
    span = max(1, -(-m // spans))

    def one(first: int) -> Result:
        rows = slice(first, first + span)
        return measure(zip(_blocks(base[rows], None, n), _blocks(left[rows], right, n), strict=True))

    if spans == 1:
        with one_thread():
            return [one(0)]
    return side_by_side(one, range(0, m, span))


def has_entry(matrix: torch.Tensor | Update) -> bool:
    """Return whether a matrix has an entry that is not zero. Of one that has, a few rows are looked at."""
    return any(bool(rows.any()) for rows in update_blocks(matrix))
