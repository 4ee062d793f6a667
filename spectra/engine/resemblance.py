"""What an engine knows of the likeness between tuned and base directions: what the metrics read, exact or not."""

from dataclasses import dataclass
from typing import Literal

import torch

from spectra.engine.decomposition import SVD, gaps, resolution
from spectra.errors import UsageError

Side = Literal["left", "right"]
SIDES: tuple[Side, ...] = ("left", "right")
_CONTENDERS = 8  # base vectors most like a tuned one, among which the most like is
_TINY = 1e-300


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
    fine : base and tuned were both decomposed in float64.

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
    fine: bool = False

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
    values, fine = base.S.double(), base.fine and tuned.fine
    return Resemblance(side, base.shape, every, values, nothing, similarity, similarity, residual, fine=fine)


def interval(
    cosines: torch.Tensor, values: torch.Tensor, rounding: float, error: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return found and bound [..., K] of tuned vectors whose |cos| with every base vector are known, [..., p, K].

    values : [p], the base's. rounding : of its decomposition, see `rounding_of`. error : [..., K], how far each tuned
    vector may be off.

    The base's own vectors are as exact as its precision lets them be: rounding of size rho turns vector i towards
    vector l by at most about `rho / |s_i - s_l|`, and no further than all the way, so a cosine may be off by
    `sqrt(sum_l (cos_l min(1, rho / |s_i - s_l|))^2)`. That is small where the value stands alone, and inside a tie it
    spans what the tied vectors can be turned into.
    """
    rows = cosines.mT  # [..., K, p]
    contenders, index = rows.topk(min(_CONTENDERS, rows.shape[-1]), dim=-1)  # [..., K, c]
    turned = (rounding / (values[index][..., None] - values).abs().clamp_min(_TINY)).clamp_max(1)
    turned.scatter_(-1, index[..., None], 0.0)
    off = (turned * rows[..., None, :]).norm(dim=-1)
    least, most = (contenders - off).amax(-1) - error, (contenders + off).amax(-1) + error
    return least.clamp(0, 1), most.clamp(0, 1)


def rounding_of(base: SVD) -> float:
    """Return the error of singular values in the precision that a matrix was decomposed in."""
    return resolution(float(base.S[0]), base.shape, fine=base.fine) if len(base.S) else 0.0


def blur(base: SVD, tuned: SVD, *, k: int, side: Side) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an interval for each of the top `min(k, p)` similarities, [K] and [K], that rounding leaves open.

    A tuned vector is off by at most about the rounding over the gap to the nearest other value (Wedin 1972), the
    base's as in `interval`. Both are narrow but where a value much larger than the others sets the rounding.
    """
    error = (rounding_of(tuned) / gaps(tuned.S.double())[:k].clamp_min(_TINY)).clamp_max(1)
    return interval(cosines(base, tuned, k=k, side=side).double(), base.S.double(), rounding_of(base), error)
