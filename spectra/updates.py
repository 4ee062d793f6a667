"""What a weight update is: few, exact structures, and the pair of a base weight and its update.

Each structure knows its shape, its products and its dense form; where a factored form exists it is
kept, so that the engine never has to form `B @ A` to know its spectrum. Nothing here knows files.
"""

from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch

from spectra.errors import MatchError
from spectra.layout import Layout
from spectra.text import show

Factors = tuple[torch.Tensor, torch.Tensor]


class Update(Protocol):
    """An update dW of shape `[m, n]`. Law: `matmul(x) == dense() @ x`, `rmatmul(y) == dense().T @ y`."""

    @property
    def kind(self) -> str: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def factors(self) -> Factors | None: ...
    def matmul(self, x: torch.Tensor) -> torch.Tensor: ...
    def rmatmul(self, y: torch.Tensor) -> torch.Tensor: ...
    def dense(self) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class Dense:
    """An update known entry by entry, as full fine-tuning leaves it."""

    matrix: torch.Tensor
    kind = "dense"

    @property
    def shape(self) -> tuple[int, int]:
        m, n = self.matrix.shape
        return m, n

    @property
    def factors(self) -> Factors | None:
        return None

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        return self.matrix @ x

    def rmatmul(self, y: torch.Tensor) -> torch.Tensor:
        return self.matrix.T @ y

    def dense(self) -> torch.Tensor:
        return self.matrix


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

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        return self.B @ (self.A @ x)

    def rmatmul(self, y: torch.Tensor) -> torch.Tensor:
        return self.A.T @ (self.B.T @ y)

    def dense(self) -> torch.Tensor:
        return self.B @ self.A


@dataclass(frozen=True, slots=True)
class Rescaled:
    """`W' = diag(gain) (W0 + inner)` or, by columns, `W' = (W0 + inner) diag(gain)`; `dW = W' - W0`.

    The update of DoRA (arXiv:2402.09353): gain is its magnitude over the norm of `W0 + inner`.
    """

    base: torch.Tensor
    inner: LowRank
    gain: torch.Tensor
    axis: Literal["rows", "columns"] = "rows"
    kind = "rescaled"

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

    @property
    def factors(self) -> Factors | None:
        return None

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        if self.axis == "columns":
            scaled = self.gain[:, None] * x
            return self.base @ (scaled - x) + self.inner.matmul(scaled)
        before = self.base @ x
        return self.gain[:, None] * (before + self.inner.matmul(x)) - before

    def rmatmul(self, y: torch.Tensor) -> torch.Tensor:
        if self.axis == "rows":
            scaled = self.gain[:, None] * y
            return self.base.T @ (scaled - y) + self.inner.rmatmul(scaled)
        before = self.base.T @ y
        return self.gain[:, None] * (before + self.inner.rmatmul(y)) - before

    def dense(self) -> torch.Tensor:
        gain = self.gain[:, None] if self.axis == "rows" else self.gain
        return (gain - 1) * self.base + gain * self.inner.dense()


@dataclass(frozen=True, slots=True)
class Storage:
    """What a weight or an update takes on disk: its dtype, number of parameters and bytes."""

    dtype: str
    parameters: int
    bytes: int


@dataclass(frozen=True, slots=True)
class WeightPair:
    """One base weight and its update, both `[m, n]` in float32 with rows = outputs.

    key : the base weight's name on disk; index : expert number or None; name : the Hub's name where
    it differs from the key. allotted : the rank the method may use, None where it is not bounded.
    notes : what a reader must know (rows cut, orientation decided, a tied weight).
    """

    key: str
    base: torch.Tensor
    update: Update
    layout: Layout
    base_storage: Storage
    update_storage: Storage
    index: int | None = None
    name: str = ""
    allotted: int | None = None
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if tuple(self.base.shape) != self.update.shape:
            raise MatchError(
                f"'{show(self.key)}': base {list(self.base.shape)} and update {list(self.update.shape)} differ"
            )
        if not self.name:
            object.__setattr__(self, "name", self.key)

    @property
    def shape(self) -> tuple[int, int]:
        return self.update.shape

    def tuned(self) -> torch.Tensor:
        """Return `W = W0 + dW` in float32, the merged weight with the method's true scaling."""
        return self.base + self.update.dense()

    def to_stored(self, matrix: torch.Tensor) -> torch.Tensor:
        """Return a matrix of this pair's shape in the state dict's own shape and layout."""
        return self.layout.to_stored(matrix)
