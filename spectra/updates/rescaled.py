"""A weight whose rows or columns have another length: DoRA, IA3."""

from dataclasses import dataclass

import torch

from spectra.errors import MatchError
from spectra.updates.update import Axis, Unfactored, Update


@dataclass(frozen=True, slots=True)
class Rescaled(Unfactored):
    """`W' = diag(gain) (W0 + inner)` or, by columns, `W' = (W0 + inner) diag(gain)`; `dW = W' - W0`.

    The update of DoRA (arXiv:2402.09353): gain is its magnitude over the norm of `W0 + inner`. With no inner
    update that of IA3 (arXiv:2205.05638).
    """

    base: torch.Tensor
    inner: Update
    gain: torch.Tensor
    axis: Axis = "rows"

    @property
    def kind(self) -> str:
        return "rescaled" if self.axis == "rows" else "rescaled columns"

    def __post_init__(self) -> None:
        length = self.base.shape[0 if self.axis == "rows" else 1]
        if self.inner.shape != tuple(self.base.shape) or self.gain.shape != (length,):
            raise MatchError(
                f"base {list(self.base.shape)}, update {list(self.inner.shape)} and "
                f"{len(self.gain)} gains on its {self.axis} do not fit together"
            )

    @property
    def shape(self) -> tuple[int, int]:
        return self.inner.shape

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        if self.axis == "columns":
            scaled = self.gain[:, None] * x
            return self.base @ (scaled - x) + self.inner.matmul(scaled)
        return (self.gain[:, None] - 1) * (self.base @ x) + self.gain[:, None] * self.inner.matmul(x)

    def rmatmul(self, y: torch.Tensor) -> torch.Tensor:
        if self.axis == "rows":
            scaled = self.gain[:, None] * y
            return self.base.T @ (scaled - y) + self.inner.rmatmul(scaled)
        return (self.gain[:, None] - 1) * (self.base.T @ y) + self.gain[:, None] * self.inner.rmatmul(y)

    def dense(self) -> torch.Tensor:
        gain = self.gain[:, None] if self.axis == "rows" else self.gain
        return (gain - 1) * self.base + gain * self.inner.dense()
