"""What an inserted matrix is: its spectrum, its ranks, and how far it stays within a space of the base."""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from spectra.metrics.ranks import Ranks
from spectra.metrics.row import Row

SPAN = 16


@dataclass(frozen=True, slots=True)
class Overlap:
    """The share of an insertion's energy within the leading directions of a base weight.

    share : `||P V||_F^2 / ||P||_F^2`, V the `span` leading directions of the weight `key` on the side `space`;
    chance : what random rows have, `span / dimensions`.
    """

    key: str
    space: str
    span: int
    share: float
    chance: float


@dataclass(frozen=True, slots=True)
class InsertionRow(Row):
    """One inserted matrix measured. norm : Frobenius; sigma : its leading singular values, descending."""

    name: str
    kind: str
    shape: tuple[int, int]
    status: str
    reason: str | None
    norm: float | None
    sigma: tuple[float, ...]
    rank: Ranks | None
    overlap: Overlap | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def overlap(matrix: torch.Tensor, directions: torch.Tensor, key: str, space: str) -> Overlap:
    """Measure how much of a matrix [rows, d] lies within orthonormal directions [d, span] of a base weight."""
    wide, d = matrix.double(), matrix.shape[1]
    energy = wide.square().sum()
    inside = (wide @ directions.double()).square().sum()
    span = directions.shape[1]
    return Overlap(key, space, span, float(inside / energy), span / d)
