"""BOFT (arXiv:2311.06243): `W' = diag(s) W0 R^T`, R a product of butterfly stages, the last stage outermost.

A stage is block-diagonal between two reorderings, its blocks the Cayley maps of the skew parts of
`boft_R [stages, blocks, b, b]`. Stage i reorders the inputs within groups of 2^i b: of their segments of b / 2, the
even ones come first, then the odd ones.
"""

import math

import torch

from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.families.cayley import cayley, skew
from spectra.loaders.adapters.families.stored import disagreement, shape_of
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix, called
from spectra.updates import Blocks, Multiplied, Rescaled


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int]:
    """Return the sizes of the scaled outputs and the rotated inputs."""
    stages, count, b, other = shape_of(module, parts, "boft_R", 4)
    scales = shape_of(module, parts, "boft_s")
    if b != other or not count or stages > count.bit_length() or (stages > 1 and (b % 2 or count % 2 ** (stages - 1))):
        raise disagreement(module, parts)
    return math.prod(scales), count * b


def update(target: Target) -> Rescaled:
    """Return dW of one module: W0 rotated along its inputs, then each output scaled."""
    M, base = target.part("boft_R").double(), target.base()
    stages = tuple(
        Blocks(cayley(skew(blocks)).mT, _order(stage, blocks.shape[0] * blocks.shape[1], blocks.shape[1]))
        for stage, blocks in enumerate(M)
    )
    return Rescaled(base, Multiplied(base, stages, axis="columns"), target.part("boft_s").flatten())


def _order(stage: int, size: int, b: int) -> torch.Tensor | None:
    """Return the place that each entry has before its block acts, by the place it acts at; the first stage has none."""
    if not stage:
        return None
    segments = torch.arange(size).reshape(-1, 2**stage, 2, b // 2)
    return segments.transpose(1, 2).flatten().argsort()


BOFT = Family(
    method="BOFT",
    parse=by_suffix("boft_R", "boft_s"),
    update=update,
    label=called("BOFT"),
    fits=fits,
)
