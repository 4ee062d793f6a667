"""optimum-quanto: eight bits by rows, four and two bits in groups, as the state dict of a frozen model has them."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from spectra.loaders.header import FLOATS
from spectra.loaders.quantization.packing import Packed, Parts, Weight, ceil, whole
from spectra.loaders.quantization.signs import EIGHT_BIT_FLOATS

_GROUP, _STEP = 128, 32
_WIDTHS = ("hidden_size", "d_model", "n_embd")
# Layers that read the width of the model, and layers that write it.
_FROM = ("q_proj", "k_proj", "v_proj", "qkv_proj", "gate_proj", "up_proj", "gate_up_proj", "fc1", "lm_head")
_TO = ("o_proj", "out_proj", "down_proj", "fc2")


def read(packed: Packed) -> Weight:
    """Read `W = q s` of eight bits, or `W = q s - shift` of four and two, which have one s and shift a group.

    A shift of whole numbers is a zero point: `W = (q - shift) s`. Packed rows lie in blocks one above the other, the
    first in the lowest bits.
    """
    return _groups(packed) if "packed" in packed else _rows(packed)


def _rows(packed: Packed) -> Weight:
    info, scales = packed.info("data", "int8", *EIGHT_BIT_FLOATS), packed.info("scale", *FLOATS)
    shape = info.shape
    packed.require(len(shape) >= 2, f"its data is {list(shape)}")
    fits = scales.parameters == 1 or scales.shape == (shape[0], *(1,) * (len(shape) - 1))
    packed.require(fits, f"its scale is {list(scales.shape)} for {list(shape)}")

    def value(parts: Parts) -> torch.Tensor:
        s = parts("scale").float()
        return parts("data").float() * (s.reshape(()) if s.numel() == 1 else s)

    return Weight(shape, info.dtype, value)


def _groups(packed: Packed) -> Weight:
    held, scales = packed.info("packed", "uint8").shape, packed.info("scale", *FLOATS).shape
    shifts = packed.info("shift", *FLOATS, "int8", "uint8")
    fits = len(held) == 2 and len(scales) == 2 and scales[1] == 1
    packed.require(fits, f"its data is {list(held)} and its scale {list(scales)}")
    packed.require(shifts.shape == scales, f"its shift is {list(shifts.shape)} and its scale {list(scales)}")
    groups, step = scales[0], held[1]
    widths = [bits for bits in (4, 2) if ceil(groups, 8 // bits) == held[0]]
    packed.require(len(widths) == 1, f"{held[0]} rows of bytes hold {groups} groups in {len(widths)} ways")
    bits = widths[0]
    shape = _shape(packed, groups, step)

    def value(parts: Parts) -> torch.Tensor:
        data = parts("packed")
        codes = torch.cat([(data >> shift) & (2**bits - 1) for shift in range(0, 8, bits)])[:groups].float()
        s, shift = parts("scale").float(), parts("shift").float()
        W = codes * s - shift if shifts.dtype in FLOATS else (codes - shift) * s
        return W.reshape(shape)

    return Weight(shape, f"int{bits}", value)


def _shape(packed: Packed, groups: int, step: int) -> tuple[int, int]:
    """Find the shape of a weight of `groups` groups of `step` entries: no file says how many groups a row has.

    It must be one whose groups the library makes so large, of extents that the rest of the model has. Raises
    UnsupportedError where there are several.
    """
    extents = set(_extents(packed))
    found = {
        (m, n)
        for n in extents
        if n % step == 0 and _group_size(n) == step and (m := groups * step // n) in extents and m * n == groups * step
    }
    module = packed.key.removesuffix(".weight")
    bias = packed.source.header.tensors.get(f"{module}.bias")
    if bias is not None and len(bias.shape) == 1:
        found = {(m, n) for m, n in found if m == bias.shape[0]}
    widths, name = set(_numbers(packed.source.config, _WIDTHS)), module.rpartition(".")[2]
    if len(found) > 1 and name in _FROM + _TO:
        found = {(m, n) for m, n in found if (n if name in _FROM else m) in widths}
    if len(found) != 1:
        raise packed.unread(f"in {groups} groups of {step}, of which the files do not say how many are a row")
    return next(iter(found))


def _group_size(n: int) -> int:
    """Return the group size that quanto takes for n inputs: the first of 128, 96, 64, 32 that divides them, else n."""
    sizes = range(_GROUP, 0, -_STEP) if n > _GROUP else ()
    return next((size for size in sizes if n % size == 0), n)


def _extents(packed: Packed) -> Iterator[int]:
    """Yield what a side of a matrix of this model may measure."""
    config = packed.source.config
    yield from _numbers(config)
    for part in _parts(config):
        heads, width = whole(part.get("num_attention_heads")), whole(part.get("hidden_size"))
        size = whole(part.get("head_dim")) or (width // heads if width and heads else None)
        counts = (heads, whole(part.get("num_key_value_heads")))
        yield from (count * size for count in counts if count and size)
    for info in packed.source.header.tensors.values():
        if info.dtype in FLOATS and len(info.shape) <= 2 and math.prod(info.shape) > 1 and 1 not in info.shape:
            yield from info.shape


def _parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield config
    yield from (part for part in config.values() if isinstance(part, Mapping))


def _numbers(config: Mapping[str, Any], names: tuple[str, ...] = ()) -> Iterator[int]:
    for part in _parts(config):
        for name, value in part.items():
            if (not names or name in names) and (number := whole(value)) is not None:
                yield number
