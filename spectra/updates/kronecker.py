"""A Kronecker product: LoKr."""

from dataclasses import dataclass

import torch

from spectra.updates.update import Unfactored


@dataclass(frozen=True, slots=True)
class Kronecker(Unfactored):
    """`dW = left (x) right` (LoKr, arXiv:2212.10650). Its singular values are all products of theirs."""

    left: torch.Tensor
    right: torch.Tensor
    kind = "Kronecker"

    @property
    def shape(self) -> tuple[int, int]:
        (a, b), (c, d) = self.left.shape, self.right.shape
        return a * c, b * d

    def values(self) -> torch.Tensor | None:
        """Return all products of the two factors' singular values: O(a^3 + c^3) where an SVD of dW is O(a^3 c^3)."""
        left, right = (torch.linalg.svdvals(factor.double()) for factor in (self.left, self.right))
        every = torch.outer(left, right).flatten().sort(descending=True).values
        return torch.nn.functional.pad(every, (0, min(self.shape) - len(every)))

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        return _kronecker(self.left, self.right, x)

    def rmatmul(self, y: torch.Tensor) -> torch.Tensor:
        return _kronecker(self.left.T, self.right.T, y)

    def dense(self) -> torch.Tensor:
        return torch.kron(self.left.contiguous(), self.right.contiguous())


def _kronecker(left: torch.Tensor, right: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    columns = x.reshape(left.shape[1], right.shape[1], -1)
    return torch.einsum("ab,cd,bdk->ack", left, right, columns).reshape(-1, x.shape[1])
