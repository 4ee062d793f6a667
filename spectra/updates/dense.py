"""An update known entry by entry."""

from dataclasses import dataclass

import torch

from spectra.updates.update import Unfactored


@dataclass(frozen=True, slots=True)
class Dense(Unfactored):
    """An update known entry by entry.

    stored : whether it is the difference of two stored weights, as full fine-tuning leaves it, so that the rounding
    of both is in it; else a method's formula gave it.
    """

    matrix: torch.Tensor
    stored: bool = True

    @property
    def kind(self) -> str:
        return "dense" if self.stored else "formed"

    @property
    def shape(self) -> tuple[int, int]:
        m, n = self.matrix.shape
        return m, n

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        return self.matrix @ x

    def rmatmul(self, y: torch.Tensor) -> torch.Tensor:
        return self.matrix.T @ y

    def dense(self) -> torch.Tensor:
        return self.matrix
