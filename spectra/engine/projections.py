"""The leading singular vectors of W as they meet the update: all that products with its single directions need."""

from dataclasses import dataclass

import torch

from spectra.updates import Update


@dataclass(frozen=True, slots=True)
class Projections:
    """`left = U^T B` and `right = V^T A^T`, U and V the leading vectors of W as columns and `dW = B A`.

    [k, r] each, in float64 on the CPU. B and A are the update's factors; where it has none they are the identity and
    dW itself, and r is m. The products are the same in every orthonormal basis, so that the basis path has them
    without turning a vector back.
    """

    left: torch.Tensor
    right: torch.Tensor

    @classmethod
    def of(cls, update: Update, U: torch.Tensor, V: torch.Tensor) -> "Projections":
        """Project rows U [k, m] and V [k, n] on an update."""
        factors = update.factors
        if factors is None:
            return cls(U.double(), update.matmul(V.T.float()).T.double())
        B, A = factors
        return cls(U.double() @ B.double(), V.double() @ A.T.double())

    @property
    def moved(self) -> torch.Tensor:
        """Return `u_j . dW v_j`. [k]"""
        return (self.left * self.right).sum(1)
