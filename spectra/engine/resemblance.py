"""What an engine knows of the likeness between tuned and base directions: what the metrics read, exact or not."""

from dataclasses import dataclass
from typing import Literal

import torch

from spectra.engine.decomposition import SVD
from spectra.errors import UsageError

Side = Literal["left", "right"]
SIDES: tuple[Side, ...] = ("left", "right")


@dataclass(frozen=True, slots=True)
class Resemblance:
    """The leading K tuned directions of one side in the singular basis of the base.

    side; shape : of the matrix, (m, n).
    cosines : [q, K], |cos| of base direction i < q with tuned direction j, q <= p = min(m, n), as computed.
    base_values : [q], singular values of those base directions.
    elsewhere : [K], bound on |cos| with every base direction that is not among these q; 0 where q = p.
    found, bound : [K], an interval that holds `max_i |cos|` over all p base directions.
    residual : [K], `||W v - sigma u|| / sigma_1`. steps : Krylov steps made for it, 0 where none were needed.
    missed : bound on the probability that a leading value was overlooked; 0 where that is proven.

    On the exact path q = p, and found equals bound.
    """

    side: Side
    shape: tuple[int, int]
    cosines: torch.Tensor
    base_values: torch.Tensor
    elsewhere: torch.Tensor
    found: torch.Tensor
    bound: torch.Tensor
    residual: torch.Tensor
    steps: int = 0
    missed: float = 0.0

    @property
    def dimension(self) -> int:
        """Of the space the directions live in: m for left, n for right."""
        return self.shape[0 if self.side == "left" else 1]

    @property
    def complete(self) -> bool:
        """Whether the cosine with every base direction is known."""
        return len(self.base_values) == min(self.shape)


def cosines(base: SVD, tuned: SVD, *, k: int, side: Side = "left") -> torch.Tensor:
    """Return |cos| between base vector i and tuned vector j: [p, min(k, p)], at most 1.

    Left vectors live in the output space `R^m`, right ones in the input space `R^n`.
    """
    U0, U = base.vectors(side), tuned.vectors(side)[:, :k]
    wide = torch.promote_types(U0.dtype, U.dtype)
    return (U0.to(wide).T @ U.to(wide)).abs().clamp_max(1.0)


def compared(base: SVD, tuned: SVD, *, k: int, side: Side = "left") -> Resemblance:
    """Compare the top `min(k, p)` vectors of one full decomposition with all of another: the exact path.

    Raises UsageError when the two matrices are not of one shape.
    """
    if base.shape != tuned.shape:
        raise UsageError(f"base {list(base.shape)} and tuned {list(tuned.shape)} are not of one shape.")
    every = cosines(base, tuned, k=k, side=side).double()
    similarity = every.amax(0) if len(every) else every.new_zeros(every.shape[1])
    nothing, residual = torch.zeros_like(similarity), torch.full_like(similarity, tuned.residual)
    return Resemblance(side, base.shape, every, base.S.double(), nothing, similarity, similarity, residual)
