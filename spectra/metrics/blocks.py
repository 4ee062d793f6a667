"""Walk an update, alone or beside its base, a few rows at a time: no sum costs a second copy of a matrix."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Protocol, TypeVar

import torch

from spectra.engine.threads import one_thread, side_by_side
from spectra.updates import Update

_ELEMENTS = 2**17


class Block:
    """The same rows of a base and of its update, [rows, n], and what several measures make of them, made once."""

    def __init__(self, base: torch.Tensor, update: torch.Tensor) -> None:
        self.base, self.update = base, update

    @cached_property
    def tuned(self) -> torch.Tensor:
        """The rows of `W = W0 + dW`, in the precision of the pair. [rows, n]"""
        return self.base + self.update

    @cached_property
    def products(self) -> torch.Tensor:
        """`[w0.w0, dw.dw, w0.dw, w.w]` of each row w = w0 + dw, in float64. [4, rows]"""
        W0, dW = self.base.double(), self.update.double()
        W = W0 + dW
        return torch.stack([(one * other).sum(1) for one, other in ((W0, W0), (dW, dW), (W0, dW), (W, W))])


class Sums(Protocol):
    """What a measure adds up over the rows of a pair."""

    def add(self, block: Block) -> None: ...


Added = TypeVar("Added", bound=Sums)


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


def over_rows(begin: Callable[[], Added], base: torch.Tensor, update: torch.Tensor | Update) -> list[Added]:
    """Add up over the rows of a base and its update, both [m, n], in spans; return the sums of each span.

    begin : makes the sums of a span, which are given its rows a block at a time. Spans run side by side on one thread
    each: threads that share a block of this size wait for each other longer than they compute.
    """
    (m, n), (left, right) = base.shape, _parts(update)
    spans = max(1, min(torch.get_num_threads(), m // _step(n)))
    span = max(1, -(-m // spans))

    def one(first: int) -> Added:
        rows, sums = slice(first, first + span), begin()
        for W0, dW in zip(_blocks(base[rows], None, n), _blocks(left[rows], right, n), strict=True):
            sums.add(Block(W0, dW))
        return sums

    if spans == 1:
        with one_thread():
            return [one(0)]
    return side_by_side(one, range(0, m, span))


def has_entry(matrix: torch.Tensor | Update) -> bool:
    """Return whether a matrix has an entry that is not zero. Of one that has, a few rows are looked at."""
    return any(bool(rows.any()) for rows in update_blocks(matrix))
