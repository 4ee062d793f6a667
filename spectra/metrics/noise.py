"""The rounding floor: how large a singular value the dtype of a file can fake by itself."""

from dataclasses import dataclass

import torch

from spectra.metrics.blocks import row_blocks

_MANTISSA_BITS = {"bfloat16": 7, "float16": 10, "float32": 23, "float64": 52}
_MIN_EXPONENT = {"bfloat16": -126, "float16": -14, "float32": -126, "float64": -1022}


@dataclass(frozen=True, slots=True)
class Floor:
    """The spectrum that rounding to `dtype` alone would give an update.

    dtype : the coarser of the two files'. sigma : root mean square rounding error of one entry,
    `sqrt(mean(ulp(w)^2) / 12)`. edge_alike : `sigma (sqrt m + sqrt n)` (Marchenko-Pastur, rows
    alike). edge_uneven : `sqrt(max row sum) + sqrt(max column sum)` of the error variances, for
    outlier rows. edge : the larger: singular values of dW at or below it may be rounding.
    lost : share of the entries of dW smaller than half an ulp of W0, which a merge into `dtype` drops.
    """

    dtype: str
    sigma: float
    edge_alike: float
    edge_uneven: float
    lost: float

    @property
    def edge(self) -> float:
        return max(self.edge_alike, self.edge_uneven)


def coarser(first: str, second: str) -> str:
    """Return the dtype with fewer mantissa bits; one that is not known counts as float32."""
    return min(first, second, key=lambda dtype: _MANTISSA_BITS.get(dtype, 23))


def ulp(weights: torch.Tensor, dtype: str) -> torch.Tensor:
    """Return the spacing of `dtype` at each weight [m, n]: `2^(floor(log2 |w|) - t)`, t mantissa bits.

    Below the smallest normal number, and at zero, it is the spacing of the subnormal numbers.
    """
    bits, lowest = _MANTISSA_BITS.get(dtype, 23), _MIN_EXPONENT.get(dtype, -126)
    exponent = torch.where(weights == 0, lowest, torch.frexp(weights)[1] - 1)
    return torch.ldexp(torch.ones_like(weights), exponent.clamp_min(lowest) - bits)


def rounding_floor(base: torch.Tensor, update: torch.Tensor, dtype: str) -> Floor:
    """Return the rounding floor of an update of `base` [m, n] stored in `dtype`.

    Each entry has the rounding of the larger of the base and the tuned weight, so that an update that
    outgrows its base has the floor of what was stored. Cost: a few passes over the matrix. The level
    matches a real round trip to 0.2 % (2048 x 2048). The edges are those of the average noise: where all
    weights lie within one power of two, so that the two edges agree, the largest noise value still stands
    above them in about one matrix of ten, by 1 %.
    """
    m, n = base.shape
    if base.numel() == 0:
        return Floor(dtype, 0.0, 0.0, 0.0, 0.0)
    of_columns = torch.zeros(n, dtype=torch.float64)
    largest_row, touched, lost = 0.0, 0, 0
    for W0, dW in row_blocks(base, update):
        spacing = ulp(W0, dtype)
        larger = torch.maximum(W0.abs(), (W0 + dW).abs())
        variance = torch.where(larger == 0, torch.zeros_like(W0), ulp(larger, dtype).square() / 12)
        of_columns += variance.sum(0)
        largest_row = max(largest_row, variance.sum(1).max().item())
        moved = dW != 0
        touched += int(moved.sum())
        lost += int((moved & (dW.abs() < spacing / 2)).sum())
    sigma = (of_columns.sum().item() / (m * n)) ** 0.5
    uneven = largest_row**0.5 + of_columns.max().item() ** 0.5
    return Floor(dtype, sigma, sigma * (m**0.5 + n**0.5), uneven, lost / max(touched, 1))
