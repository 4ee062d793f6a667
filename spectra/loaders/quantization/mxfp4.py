"""MXFP4 experts as gpt-oss stores them: FP4 in blocks of 32 with one exponent each (OCP MX, arXiv:2310.10537)."""

import torch

from spectra.loaders.quantization.bits import factors, fields, fp4
from spectra.loaders.quantization.packing import Packed, Parts, Weight

_BLOCK, _BYTES = 32, 16


def read(packed: Packed) -> Weight:
    """Read `[experts, in, out]` from blocks `[experts, out, in / 32, 16]`, of two codes in a byte the low one first.

    The model holds the experts transposed to how their codes lie.
    """
    blocks, scales = packed.info("blocks", "uint8").shape, packed.info("scales", "uint8").shape
    fits = len(blocks) == 4 and blocks[-1] == _BYTES and scales == blocks[:-1]
    packed.require(fits, f"its blocks are {list(blocks)} and its scales {list(scales)}")
    experts, m, count, _ = blocks
    n = count * _BLOCK

    def value(parts: Parts) -> torch.Tensor:
        W = fp4(fields(parts("blocks"), 4, _BLOCK)).mul_(factors(parts("scales")).unsqueeze(-1))
        return W.flatten(-2).transpose(-1, -2)

    return Weight((experts, n, m), "mxfp4", value, stacked=True)
