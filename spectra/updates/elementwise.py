"""A product entry by entry: LoHa, HiRA, LoRS."""

from dataclasses import dataclass

import torch

from spectra.errors import MatchError
from spectra.updates.low_rank import LowRank
from spectra.updates.update import Factors, Unfactored, Update


@dataclass(frozen=True, slots=True)
class Elementwise(Unfactored):
    """`dW = weight o inner`, entry by entry.

    weight : W0 itself (HiRA), a mask of zeros and ones (LoRS, arXiv:2501.08582), or the other half of LoHa
    (arXiv:2108.06098), as a matrix or as an update. The product of ranks r and s has rank at most r s; where that is
    below the dimensions, factors are the row-wise Kronecker products.
    """

    weight: torch.Tensor | LowRank
    inner: Update
    kind = "elementwise"

    def __post_init__(self) -> None:
        if tuple(self.weight.shape) != self.inner.shape:
            raise MatchError(f"{list(self.weight.shape)} and {list(self.inner.shape)} have no elementwise product")

    @property
    def shape(self) -> tuple[int, int]:
        return self.inner.shape

    @property
    def factors(self) -> Factors | None:
        inner = self.inner.factors
        if inner is None or not isinstance(self.weight, LowRank):
            return None
        (B, A), (D, C) = inner, (self.weight.B, self.weight.A)
        if B.shape[1] * D.shape[1] >= min(self.shape):
            return None
        return (B[:, :, None] * D[:, None]).flatten(1), (A[:, None] * C[None]).flatten(0, 1)

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense() @ x

    def rmatmul(self, y: torch.Tensor) -> torch.Tensor:
        return self.dense().T @ y

    def dense(self) -> torch.Tensor:
        weight = self.weight.dense() if isinstance(self.weight, LowRank) else self.weight
        return weight * self.inner.dense()
