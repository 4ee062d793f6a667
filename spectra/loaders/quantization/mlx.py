"""MLX's own quantisation: affine in groups along the inputs, in 2 to 8 bits, and the microscaling formats."""

from collections.abc import Mapping
from typing import Any

import torch

from spectra.loaders.header import FLOATS
from spectra.loaders.quantization.bits import factors, fields, fp4
from spectra.loaders.quantization.packing import Packed, Parts, Weight, whole

_WORD = 32
_BITS = (2, 3, 4, 5, 6, 8)
_MICROSCALED = {"mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}  # bits, group size


def read(packed: Packed) -> Weight:
    """Read `W = s q + b`, s and b one a group; weight is `[..., out, in bits / 32]`, one stream a row.

    `mxfp4` and `mxfp8` have small floats for q, exponents of two for s, and no b; `nvfp4` has float8 for s.
    """
    told = _settings(packed)
    mode, bits, step = told.get("mode", "affine"), whole(told.get("bits")), whole(told.get("group_size"))
    if mode not in ("affine", *_MICROSCALED) or "global_scale" in packed:
        raise packed.unread(f"in the mode {mode}{' with a global scale' if 'global_scale' in packed else ''}")
    known = bits in _BITS if mode == "affine" else (bits, step) == _MICROSCALED[mode]
    packed.require(known and step is not None, f"its configuration says {bits} bits and groups of {step}")
    assert bits is not None
    assert step is not None
    words, held = packed.info("weight", "uint32").shape, packed.info("scales").shape
    packed.require(len(words) in (2, 3), f"its weight is {list(words)}")
    n = words[-1] * _WORD // bits
    shape = (*words[:-1], n)
    fits = words[-1] * _WORD == n * bits and n % step == 0 and held == (*words[:-1], n // step)
    packed.require(fits, f"its words are {list(words)}, its scales {list(held)}: no {bits} bits in groups of {step}")
    if mode == "affine":
        packed.info("scales", *FLOATS)
        packed.require(packed.info("biases", *FLOATS).shape == held, "its biases are not of the shape of its scales")
    else:
        packed.info("scales", "uint8")

    def value(parts: Parts) -> torch.Tensor:
        scales = parts("scales")
        s = factors(scales.view(torch.float8_e4m3fn) if mode == "nvfp4" else scales).unsqueeze(-1)
        codes = fields(parts("weight"), bits, n).reshape(*s.shape[:-1], step)
        if mode == "affine":
            return codes.float().mul_(s).add_(parts("biases").float().unsqueeze(-1)).flatten(-2)
        values = fp4(codes) if bits == 4 else codes.view(torch.float8_e4m3fn).float()
        return values.mul_(s).flatten(-2)

    return Weight(shape, f"int{bits}" if mode == "affine" else str(mode), value, stacked=len(shape) == 3)


def _settings(packed: Packed) -> Mapping[str, Any]:
    """Return the group size, bits and mode of one module: its own where the configuration names it."""
    own_words = packed.source.config.get("quantization")  # what it was converted from may still be declared beside it
    told = own_words if isinstance(own_words, Mapping) else packed.declared
    own = told.get(packed.key.removesuffix(".weight"))
    return {**told, **own} if isinstance(own, Mapping) else told
