"""An update known by two factors, and the one that changes nothing."""

from dataclasses import dataclass

import torch

from spectra.errors import MatchError
from spectra.updates.update import Factors


@dataclass(frozen=True, slots=True)
class LowRank:
    """`dW = B @ A` with B `[m, r]` and A `[r, n]`; the method's scaling is already in B."""

    B: torch.Tensor
    A: torch.Tensor
    kind = "low rank"

    def __post_init__(self) -> None:
        if self.B.shape[1] != self.A.shape[0]:
            raise MatchError(
                f"factors B {list(self.B.shape)} and A {list(self.A.shape)} disagree on the rank: "
                f"{self.B.shape[1]} against {self.A.shape[0]}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        return self.B.shape[0], self.A.shape[1]

    @property
    def factors(self) -> Factors | None:
        return self.B, self.A

    def values(self) -> torch.Tensor | None:
        return None

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        return self.B @ (self.A @ x)

    def rmatmul(self, y: torch.Tensor) -> torch.Tensor:
        return self.A.T @ (self.B.T @ y)

    def dense(self) -> torch.Tensor:
        return self.B @ self.A


def nothing(shape: tuple[int, int], like: torch.Tensor) -> LowRank:
    """Return the update that changes nothing: rank 0."""
    m, n = shape
    return LowRank(like.new_zeros(m, 0), like.new_zeros(0, n))
