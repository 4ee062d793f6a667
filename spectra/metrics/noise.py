"""The rounding floor: how large a singular value the dtype of a file, or its computation, can fake by itself."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch

from spectra.metrics.blocks import Block, over_rows
from spectra.updates import Update

_MANTISSA_BITS = {"bfloat16": 7, "float16": 10, "float32": 23, "float64": 52}
_MIN_EXPONENT = {"float16": -14}  # the others': float32's own, which no weight is read below
_EXPONENT_BITS = 0x7F800000


@dataclass(frozen=True, slots=True)
class Floor:
    """The spectrum that rounding alone would give an update: to `dtype` in the files, and where it is computed.

    dtype : the coarser of the two files'. sigma : root mean square rounding error of one entry,
    `sqrt(mean(ulp(w)^2) / 12)`. edge_alike : `sigma (sqrt m + sqrt n)` (Marchenko-Pastur, rows
    alike). edge_uneven : `sqrt(max row sum) + sqrt(max column sum)` of the error variances, for
    outlier rows. edge_computed : what the computation of the singular values resolves, see `engine.resolution`.
    edge : the largest: singular values of dW at or below it may be rounding. limited_by : whose edge that is, that
    of the "files" or that of the "computation".
    lost : of the entries that the update moves, the share that it moves by less than half an ulp of W0: a merge into
    `dtype` drops these.
    """

    dtype: str
    sigma: float
    edge_alike: float
    edge_uneven: float
    edge_computed: float
    lost: float

    @property
    def edge(self) -> float:
        return max(self.edge_alike, self.edge_uneven, self.edge_computed)

    @property
    def limited_by(self) -> Literal["files", "computation"]:
        return "files" if max(self.edge_alike, self.edge_uneven) >= self.edge_computed else "computation"


def coarser(first: str, second: str) -> str | None:
    """Return the dtype with fewer mantissa bits, None where one of them is packed: its steps depend on its scales."""
    return None if is_packed(first) or is_packed(second) else min(first, second, key=_MANTISSA_BITS.__getitem__)


def is_packed(dtype: str) -> bool:
    """Whether entries are stored as codes of some bits (fp8, int8, NF4, Q4_K, ...), which scales turn into weights."""
    return dtype not in _MANTISSA_BITS


def ulp(weights: torch.Tensor, dtype: str) -> torch.Tensor:
    """Return the spacing of `dtype` at each weight [m, n] of float32: `2^(floor(log2 |w|) - t)`, t mantissa bits.

    Below the smallest normal number, and at zero, it is the spacing of the subnormal numbers.
    """
    return _power(weights, dtype).mul_(2.0 ** -_MANTISSA_BITS[dtype])


def _power(weights: torch.Tensor, dtype: str) -> torch.Tensor:
    """The power of two at or below each |w|, which is w without its sign and mantissa bits, but none of subnormals."""
    power = (weights.view(torch.int32) & _EXPONENT_BITS).view(torch.float32)
    return power.clamp_min_(_lowest(dtype))


def _lowest(dtype: str) -> float:
    return float(2.0 ** _MIN_EXPONENT.get(dtype, -126))


def rounding_floor(
    base: torch.Tensor, update: torch.Tensor | Update, dtype: str, *, edge_computed: float = 0.0
) -> Floor:
    """Return the rounding floor of an update of `base` [m, n], both float32, stored in `dtype`.

    Each entry has the rounding of the larger of the base and the tuned weight, so that an update that
    outgrows its base has the floor of what was stored. Cost: a few passes over blocks of rows. The level
    matches a real round trip to 0.6 % from 1024 x 1024 on. The edges are those of the average noise: where all
    weights lie within one power of two, so that the two edges agree, the largest noise value still stands
    above them in about one matrix of ten, by 1 %.
    """
    m, n = base.shape
    return floor_of(over_rows(partial(Noise, dtype), base, update), (m, n), edge_computed=edge_computed)


@dataclass(slots=True)
class Noise:
    """Of some rows: variances summed by columns [n], the largest sum of a row, entries that moved and that are lost."""

    dtype: str
    of_columns: torch.Tensor = field(default_factory=lambda: torch.zeros((), dtype=torch.float64))
    largest_row: float = 0.0
    moved: int = 0
    lost: int = 0

    def add(self, block: Block) -> None:
        if not block.base.numel():
            return
        power = _power(block.base, self.dtype)
        size = block.update.abs().mul_(2.0 ** (_MANTISSA_BITS[self.dtype] + 1))
        moved = int(size.sign().sum())  # sums of ones: exact in float32 up to 2^24 of them
        self.moved += moved
        self.lost += int(size.lt_(power).sum()) - (size.numel() - moved)  # what did not move is below any step too
        larger = torch.maximum(power, _power(block.tuned, self.dtype))
        of_rows, of_columns, unit = _squared_sums(larger, block.base, block.tuned, self.dtype)
        self.of_columns = self.of_columns + of_columns.double() * unit
        self.largest_row = max(self.largest_row, of_rows.max().item() * unit)


def floor_of(spans: Sequence[Noise], shape: tuple[int, int], *, edge_computed: float) -> Floor:
    """Return what `rounding_floor` does, from the sums over the rows of a pair [m, n]."""
    m, n = shape
    of_columns = torch.stack([span.of_columns for span in spans]).sum(0)
    sigma = math.sqrt(of_columns.sum().item() / max(m * n, 1))
    uneven = math.sqrt(max(span.largest_row for span in spans)) + math.sqrt(of_columns.max().item())
    lost = sum(span.lost for span in spans) / max(sum(span.moved for span in spans), 1)
    return Floor(spans[0].dtype, sigma, sigma * (m**0.5 + n**0.5), uneven, edge_computed, lost)


def _squared_sums(
    power: torch.Tensor, W0: torch.Tensor, W: torch.Tensor, dtype: str
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Sum the rounding variances `ulp^2 / 12` by rows and by columns, in units that keep the squares within float32.

    power is overwritten. An entry that is zero before and after carries no noise.
    """
    least, most = torch.aminmax(power)
    exponent = math.frexp(most.item())[1]
    power.mul_(2.0**-exponent).square_()
    if least.item() <= _lowest(dtype):
        power.mul_((W0 != 0) | (W != 0))
    return power.sum(1), power.sum(0), float(4.0 ** (exponent - _MANTISSA_BITS[dtype]) / 12)
