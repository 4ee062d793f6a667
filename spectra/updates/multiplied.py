"""A weight multiplied by block-diagonal maps: OFT, BOFT."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from spectra.errors import MatchError
from spectra.updates.update import Axis, Unfactored


@dataclass(frozen=True, slots=True)
class Blocks:
    """A block-diagonal map R of vectors, between two reorderings: `R x = P^T blockdiag(blocks) P x`.

    blocks : [count, b, b], in float64 where they are close to the identity: what they change is then exact in the
    float32 of x. order : the permutation P as indices, `(P x)[i] = x[order[i]]`; None is none.
    """

    blocks: torch.Tensor
    order: torch.Tensor | None = None

    @property
    def size(self) -> int:
        return self.blocks.shape[0] * self.blocks.shape[1]

    def less(self, x: torch.Tensor) -> torch.Tensor:
        """Return `(R - I) x` for columns x [size, k], without the cancellation of `R x - x`."""
        blocks = (self.blocks - torch.eye(self.blocks.shape[-1]).to(self.blocks)).to(x.dtype)
        inside = x if self.order is None else x[self.order]
        done = (blocks @ inside.reshape(len(blocks), -1, x.shape[1])).reshape(x.shape)
        if self.order is None:
            return done
        out = torch.empty_like(done)
        out[self.order] = done
        return out

    @property
    def transposed(self) -> "Blocks":
        return Blocks(self.blocks.mT, self.order)


@dataclass(frozen=True, slots=True)
class Multiplied(Unfactored):
    """`dW = (R - I) W0`, or `W0 (R - I)` on the columns, R a product of block-diagonal maps kept as it is.

    The update of OFT (arXiv:2306.07280), BOFT (arXiv:2311.06243) and their kin. stages : R is the first of them
    times the second and so on.
    """

    base: torch.Tensor
    stages: tuple[Blocks, ...]
    axis: Axis = "rows"
    kind = "multiplied"

    def __post_init__(self) -> None:
        length = self.base.shape[0 if self.axis == "rows" else 1]
        if any(stage.size != length for stage in self.stages):
            sizes = [stage.size for stage in self.stages]
            raise MatchError(f"base {list(self.base.shape)} and maps of {sizes} {self.axis} do not fit together")

    @property
    def shape(self) -> tuple[int, int]:
        m, n = self.base.shape
        return m, n

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        return self._less(self.base @ x) if self.axis == "rows" else self.base @ self._less(x)

    def rmatmul(self, y: torch.Tensor) -> torch.Tensor:
        return self.base.T @ self._less_t(y) if self.axis == "rows" else self._less_t(self.base.T @ y)

    def dense(self) -> torch.Tensor:
        return self._less(self.base) if self.axis == "rows" else self._less_t(self.base.T).T

    def _less(self, x: torch.Tensor) -> torch.Tensor:
        """Return `(R - I) x`."""
        return _moved(self.stages[::-1], x)

    def _less_t(self, x: torch.Tensor) -> torch.Tensor:
        """Return `(R - I)^T x`."""
        return _moved([stage.transposed for stage in self.stages], x)


def _moved(stages: Sequence[Blocks], x: torch.Tensor) -> torch.Tensor:
    """Return by how much stages, applied one after another, move x: the sum of their own moves."""
    moved = torch.zeros_like(x)
    for stage in stages:
        moved = moved + stage.less(x + moved)
    return moved
