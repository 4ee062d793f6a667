"""What every weight update can do."""

from typing import Literal, Protocol

import torch

Factors = tuple[torch.Tensor, torch.Tensor]
Axis = Literal["rows", "columns"]


class Update(Protocol):
    """An update dW of shape `[m, n]`. Law: `matmul(x) == dense() @ x`, `rmatmul(y) == dense().T @ y`.

    factors : `(B, A)` with `dW = B A`, or None where no such form is smaller than dW itself.
    values : its singular values, float64 and descending, where structure gives them without dW or factors; else None.
    """

    @property
    def kind(self) -> str: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def factors(self) -> Factors | None: ...
    def values(self) -> torch.Tensor | None: ...
    def matmul(self, x: torch.Tensor) -> torch.Tensor: ...
    def rmatmul(self, y: torch.Tensor) -> torch.Tensor: ...
    def dense(self) -> torch.Tensor: ...


class Unfactored:
    """What an update has that neither factors nor its own spectrum is known of."""

    __slots__ = ()

    @property
    def factors(self) -> Factors | None:
        return None

    def values(self) -> torch.Tensor | None:
        return None
