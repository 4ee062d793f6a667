"""How much an update amplifies directions that the base already has: LoRA, arXiv:2106.09685, section 7.3."""

import math
from dataclasses import dataclass

import torch

from spectra.engine.decomposition import resolution
from spectra.engine.dense import frobenius
from spectra.engine.update_directions import Directions
from spectra.metrics.norms import Norms

_SAFE = 1e15  # Frobenius norm up to which, and down to its inverse, no product with a unit vector leaves float32


@dataclass(frozen=True, slots=True)
class Amplification:
    """`factor = ||U^T dW V||_F / ||U^T W0 V||_F`, U and V the `rank` leading singular vectors of dW.

    With all of them, as of a factored update, the numerator is `||dW||_F`, as in the paper's Table 7.

    within : the denominator, what the base has in the update's own directions; what is below the resolution of
    float32 beside the base is rounding, and the factor then infinite. by_chance : the factor that random directions
    of this number would have, `||U^T dW V||_F / (||W0||_F rank / sqrt(m n))`. A factor below it says that the update
    lies where the base is strong already.
    """

    rank: int
    factor: float
    within: float
    by_chance: float


def amplification(base: torch.Tensor, directions: Directions, size: Norms) -> Amplification | None:
    """Compare an update with what the base [m, n] has in the update's own directions.

    size : the norms of the pair. None where no direction of the update is known, or the base is zero. Invariant under
    the gauge of the factors; `W0 -> a W0` gives `factor / a`. Cost: `2 m n rank`, in float32 with sums over rows in
    float64; in float64 where the base is too large or small for that.
    """
    q, (m, n) = len(directions), directions.shape
    if not q or not size.base or size.base_spectral is None:
        return None
    dtype = torch.float32 if 1 / _SAFE < size.base < _SAFE else torch.float64
    inside = directions.left.T @ (base.to(dtype) @ directions.right.to(dtype)).double()
    within, strength = frobenius(inside), float(directions.values.norm())
    return Amplification(
        rank=q,
        factor=strength / within if within > resolution(size.base_spectral, directions.shape) else math.inf,
        within=within,
        by_chance=strength / (size.base * q / math.sqrt(m * n)),
    )
