"""HQQ (half-quadratic quantisation, Badri and Shaji 2023): codes of a reshaped weight, stacked on one another."""

import math

import torch

from spectra.loaders.header import FLOATS
from spectra.loaders.quantization.packing import Packed, Parts, Weight, ceil
from spectra.text import show

# How many rows of codes a row of bytes or words holds, and the bits of a code in it.
_PACKINGS = {"8bit_u8": (1, 8), "4bit_u8": (2, 4), "2bit_u8": (4, 2), "1bit_u8": (8, 1), "3bit_32": (10, 3)}


def read(packed: Packed) -> Weight:
    """Read `W = ((q - zero) scale)` reshaped: q is `[groups, size]`, or `[size, groups]` where axis is 0.

    The rows of q lie in blocks one above the other, the first in the highest bits of a byte, or of a word of ten
    fields of 3 bits. Bytes stored as another dtype (`view_as_float`) are reinterpreted.
    """
    for flag in ("quant_scale", "quant_zero"):
        if flag in packed and packed.small(flag).any():
            raise packed.unread(f"with {flag}: its scales are packed too")
    shape = packed.extents(packed.small("shape"))
    name = bytes(packed.small("packing").tolist()).decode("ascii", "replace")
    if name not in _PACKINGS:
        raise packed.unread(f"as '{show(name, 40)}'")
    per, bits = _PACKINGS[name]
    size, held = math.prod(shape), packed.info("W_q")
    unit = 4 if bits == 3 else 1
    packed.require(len(held.shape) == 2 and len(shape) == 2 and size > 0, f"its W_q is {list(held.shape)}")
    columns = held.bytes // unit // held.shape[0] if held.shape[0] else 0
    rows = size // columns if columns else 0
    fits = rows * columns == size and ceil(rows, per) == held.shape[0] and (bits == 3 or rows % per == 0)
    packed.require(fits, f"its W_q is {list(held.shape)} of {held.dtype}, which is not {list(shape)} in {bits} bits")
    for role in ("scale", "zero"):
        found = packed.info(role, *FLOATS).shape
        one_a_group = found in ((rows, 1), (1, columns)) or math.prod(found) == 1
        packed.require(one_a_group, f"its {role} is {list(found)} for codes {[rows, columns]}")

    def value(parts: Parts) -> torch.Tensor:
        words = parts("W_q").view(torch.int32 if unit == 4 else torch.uint8)
        shifts = range(bits * (per - 1), -1, -bits)
        codes = torch.cat([((words >> shift) & (2**bits - 1)).to(torch.uint8) for shift in shifts])[:rows]
        return ((codes.float() - _one(parts("zero"))) * _one(parts("scale"))).reshape(shape)

    return Weight(shape, f"int{bits}", value)


def _one(values: torch.Tensor) -> torch.Tensor:
    """Return a scale or zero in float32, a single number as one."""
    return values.float().reshape(()) if values.numel() == 1 else values.float()
