"""How a weight lies in its file, and how it becomes a matrix whose rows are outputs.

The engine sees only `[m, n]` matrices with rows = outputs. A layout is the way there and back.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from spectra.errors import InputError

Kind = Literal["linear", "transposed", "kernel"]


@dataclass(frozen=True, slots=True)
class Layout:
    """The stored shape of a weight and how it is read as a matrix.

    kind : "linear" is `[out, in]` (also `[vocab, dim]`), "transposed" is `[in, out]` (the Conv1D of
        GPT-2), "kernel" is `[out, in / groups, k, ...]`, read as `[out, in / groups * k * ...]`.
    heads : of a "linear" weight whose rows are stored in the order of an interleaved rotary embedding, the
        number of attention heads: row `2 i + j` of a head of d rows is read as its row `j d / 2 + i`. Else 0.
    """

    kind: Kind
    stored_shape: tuple[int, ...]
    heads: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Shape `[m, n]` of the matrix, rows = outputs."""
        first, *rest = self.stored_shape
        if self.kind == "transposed":
            return rest[0], first
        size = 1
        for extent in rest:
            size *= extent
        return first, size

    def to_matrix(self, stored: torch.Tensor) -> torch.Tensor:
        """Return the `[m, n]` matrix of a stored tensor. Law: `to_stored(to_matrix(x)) == x`."""
        if self.kind == "transposed":
            return stored.T
        if self.heads:
            rows, columns = self.shape
            pairs = stored.reshape(self.heads, rows // self.heads // 2, 2, columns)
            return pairs.transpose(1, 2).reshape(self.shape)
        return stored.reshape(self.shape) if self.kind == "kernel" else stored

    def to_stored(self, matrix: torch.Tensor) -> torch.Tensor:
        """Return a matrix in the state dict's own shape and layout."""
        if tuple(matrix.shape) != self.shape:
            raise InputError(f"a matrix of shape {list(matrix.shape)} is not of shape {list(self.shape)}")
        if self.kind == "transposed":
            return matrix.T
        if self.heads:
            rows, columns = self.shape
            matrix = matrix.reshape(self.heads, 2, rows // self.heads // 2, columns).transpose(1, 2)
        return matrix.reshape(self.stored_shape)

    def cut(self, rows: int) -> "Layout":
        """Return the layout of the first `rows` outputs alone, which interleaved rows have none of."""
        assert not self.heads
        if self.kind == "transposed":
            return Layout(self.kind, (self.stored_shape[0], rows))
        return Layout(self.kind, (rows, *self.stored_shape[1:]))


def layout_of(shape: tuple[int, ...], *, transposed: bool = False) -> Layout:
    """Return the layout of a stored weight with two or more dimensions."""
    if transposed and len(shape) == 2:
        return Layout("transposed", shape)
    return Layout("linear" if len(shape) == 2 else "kernel", shape)
