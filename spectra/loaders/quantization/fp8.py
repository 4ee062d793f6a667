"""Eight-bit floats with scales: by blocks, as DeepSeek-V3 stores them (arXiv:2412.19437), or by rows and tensors."""

import torch

from spectra.loaders.header import FLOATS
from spectra.loaders.quantization.bits import Block, factors, fields, fp4, grid_shape, spread
from spectra.loaders.quantization.packing import Packed, Parts, Weight, whole
from spectra.loaders.quantization.signs import EIGHT_BIT_FLOATS

_SCALES = (*FLOATS, "float8_e8m0fnu")
_FP4_BLOCK = (1, 32)
_CONFIG = "Put the config.json that it was saved with beside it."


def blocks(packed: Packed) -> Weight:
    """Read `W = w s`, one s a block: `weight_scale_inv` is multiplied, whatever its name says.

    Blocks at the edges are smaller, so that only the configuration tells their size. Scales in bytes are exponents
    of two. Experts may be packed as FP4, two in a byte (the low half first), with a scale for every 32.
    """
    info, scales = packed.info("weight"), packed.info("scale", *_SCALES, "uint8").shape
    packed.require(len(info.shape) in (2, 3), f"its weight is {list(info.shape)}")
    halves = info.dtype == "int8"
    shape = (*info.shape[:-1], info.shape[-1] * 2) if halves else info.shape
    scalar = scales in ((), (1,))
    block = _FP4_BLOCK if halves else _block(packed, shape, scales)
    grid = grid_shape(shape, block)
    fits = scales == grid or (scalar and not halves)
    packed.require(fits, f"its scales are {list(scales)} and blocks of {list(block)} make {list(grid)}")
    if len(shape) == 3 and not (halves or scalar) and shape[1] % (2 * block[0]):
        raise packed.unread(f"as experts of {shape[1]} rows, whose two halves do not fill blocks of {block[0]} rows")

    def value(parts: Parts) -> torch.Tensor:
        w = parts("weight")
        W = fp4(fields(w, 4, shape[-1])) if halves else w.float()
        s = factors(parts("scale"))
        return W.mul_(s if scalar else spread(s, block, shape))

    return Weight(shape, "fp4" if halves else info.dtype, value, stacked=len(shape) == 3 and not scalar)


def _block(packed: Packed, shape: tuple[int, ...], scales: tuple[int, ...]) -> Block:
    told = packed.declared.get("weight_block_size")
    if isinstance(told, list) and len(told) == 2 and all(whole(step) for step in told):
        return told[0], told[1]
    if scales in ((), (1,), (1, 1)):
        return shape[-2], shape[-1]
    raise packed.fault("no configuration says how large the blocks of its scales are (weight_block_size)", _CONFIG)


def scaled(packed: Packed) -> Weight:
    """Read `W = w s` with one s for the tensor or one a row."""
    info, scales = packed.info("weight", *EIGHT_BIT_FLOATS), packed.info("weight_scale", *FLOATS)
    shape = info.shape
    packed.require(len(shape) == 2, f"its weight is {list(shape)}, no matrix")
    fits = scales.parameters == 1 or scales.shape in ((shape[0],), (shape[0], 1))
    packed.require(fits, f"its weight_scale is {list(scales.shape)}, neither one number nor one a row of {list(shape)}")

    def value(parts: Parts) -> torch.Tensor:
        return parts("weight").float() * parts("weight_scale").float().reshape(-1, 1)

    return Weight(shape, info.dtype, value)
