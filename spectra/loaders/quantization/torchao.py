"""torchao's tensors as transformers writes them: flattened, their class in the metadata of the file."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from spectra.loaders import strict_json
from spectra.loaders.header import FLOATS
from spectra.loaders.quantization.bits import grid_shape, spread
from spectra.loaders.quantization.packing import Packed, Parts, Weight, whole
from spectra.loaders.quantization.signs import EIGHT_BIT_FLOATS
from spectra.text import show

_CLASSES = {
    "Int8Tensor": ("int8",),
    "IntxUnpackedToInt8Tensor": ("int8",),
    "Float8Tensor": EIGHT_BIT_FLOATS,
}  # class -> dtypes of its codes


def read(packed: Packed) -> Weight:
    """Read `W = (q - z) s`, s and z one a block; a float has no z."""
    kind, told = _described(packed)
    if kind not in _CLASSES:
        raise packed.unread(f"as {show(kind, 60)}")
    if "act_pre_scale" in packed:
        raise packed.unread("with a scale of its inputs (act_pre_scale)")
    codes, scales = packed.info("qdata", *_CLASSES[kind]), packed.info("scale", *FLOATS)
    shape, given = codes.shape, told.get("block_size")
    steps = given if isinstance(given, list) else []
    fits = len(shape) in (2, 3) and len(steps) == len(shape) and all(step == -1 or whole(step) for step in steps)
    packed.require(fits, f"its blocks are {show(given, 40)} for {list(shape)}")
    full = [extent if step == -1 else step for step, extent in zip(steps, shape, strict=True)]
    packed.require(len(shape) == 2 or full[0] == 1, f"its blocks are {full}: they cover several experts")
    block = (full[-2], full[-1])
    grid = grid_shape(shape, block)
    whole_blocks = all(extent % step == 0 for extent, step in zip(shape, full, strict=True))
    fits, shifted = whole_blocks and scales.parameters == math.prod(grid), "zero_point" in packed
    packed.require(fits, f"its scales are {list(scales.shape)}, not {list(grid)}")
    if shifted:
        packed.require(packed.info("zero_point").parameters == math.prod(grid), "its zero_point is not as its scales")

    def value(parts: Parts) -> torch.Tensor:
        W = parts("qdata").float()
        if shifted:
            W = W - spread(parts("zero_point").float().reshape(grid), block, shape)
        return W * spread(parts("scale").float().reshape(grid), block, shape)

    return Weight(shape, _entries(told, codes.dtype), value)


def _described(packed: Packed) -> tuple[str, Mapping[str, Any]]:
    """Return the class of a tensor and its attributes, which stand in the file's metadata under its name."""
    text = packed.source.header.metadata.get(packed.key)
    if text is None:
        raise packed.fault("the metadata of its file does not say of which class it is")
    found = strict_json.parse(text.encode(), f"the metadata of '{show(packed.key)}'")
    kind, told = found.get("_type"), found.get("_data")
    return str(kind), told if isinstance(told, Mapping) else {}


def _entries(told: Mapping[str, Any], dtype: str) -> str:
    target = told.get("target_dtype")
    name = target.get("_data") if isinstance(target, Mapping) else None
    return name if isinstance(name, str) and name in {f"int{bits}" for bits in range(1, 9)} else dtype
