"""Walk an update, alone or beside its base, a few rows at a time: no sum costs a second copy of a matrix."""

from collections.abc import Iterator

import torch

from spectra.updates import Update

_ELEMENTS = 2**17


def update_blocks(update: torch.Tensor | Update) -> Iterator[torch.Tensor]:
    """Yield an update [m, n] in blocks of rows of at most about 2^17 entries; factors are multiplied block by block."""
    if isinstance(update, torch.Tensor):
        left, right = update, None
    elif update.factors is not None:
        left, right = update.factors
    else:
        left, right = update.dense(), None
    step = max(1, _ELEMENTS // max(update.shape[1], 1))
    for first in range(0, left.shape[0], step):
        rows = left[first : first + step]
        yield rows if right is None else rows @ right


def row_blocks(base: torch.Tensor, update: torch.Tensor | Update) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the same rows of a base and of its update, both [m, n], in blocks."""
    first = 0
    for rows in update_blocks(update):
        yield base[first : first + len(rows)], rows
        first += len(rows)


def has_entry(matrix: torch.Tensor | Update) -> bool:
    """Return whether a matrix has an entry that is not zero. Of one that has, a few rows are looked at."""
    return any(bool(rows.any()) for rows in update_blocks(matrix))
