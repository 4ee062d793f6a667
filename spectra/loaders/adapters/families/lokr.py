"""LoKr (arXiv:2212.10650): `dW = s w1 (x) w2`, `s = alpha / r` even where both factors are stored in full.

Either factor may be a product `w_a w_b`. Of a convolution w2 has the kernel: in full `[b, d, k, ...]`, flat, or with a
core `t2 [r, r, k, ...]`.
"""

import math

import torch

from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.families.stored import disagreement, shape_of
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix, called, never
from spectra.updates import Dense, Kronecker, Update


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int]:
    """Return the `[out, in]` shape of `w1 (x) w2`, kernels flat."""
    (a, c), (b, d) = (_factor_fits(module, parts, factor) for factor in "12")
    return a * b, c * d


def _factor_fits(module: str, parts: Shapes, factor: str) -> tuple[int, int]:
    whole, core = parts.get(f"lokr_w{factor}"), parts.get(f"lokr_t{factor}")
    if whole is not None and len(whole) >= 2:
        return whole[0], math.prod(whole[1:])
    left, right = (shape_of(module, parts, f"lokr_w{factor}_{side}") for side in "ab")
    if core is None and left[1] == right[0]:
        return left[0], right[1]
    if core is not None and core[:2] == (left[0], right[0]):
        return left[1], right[1] * math.prod(core[2:])
    raise disagreement(module, parts)


def stored_rank(parts: Shapes) -> int | None:
    """Return r, None where both factors are stored in full."""
    return next((parts[name][0] for name in ("lokr_w2_b", "lokr_w1_b") if name in parts), None)


def rank(parts: Shapes, config: AdapterConfig) -> int:
    """Return the largest rank that the product can have."""
    most = (min(*_factor_fits("", parts, factor), *parts.get(f"lokr_w{factor}_b", ())[:1]) for factor in "12")
    return min(math.prod(most), *fits("", parts, config))


def doubts(module: str, parts: Shapes, config: AdapterConfig) -> list[str]:
    """Say what file and configuration leave open about the scaling."""
    return config.doubts_of(module, stored_rank(parts))


def update(target: Target) -> Update:
    """Return dW of one module as the Kronecker product it is."""
    shapes = {part: tuple(tensor.shape) for part, tensor in target.parts.items()}
    left = _factor(target, "1") * target.config.scaling_of(target.module, stored_rank(shapes))
    right = _factor(target, "2")
    if right.ndim != 3:
        return Kronecker(left, right.flatten(1))
    # A kernel of one dimension stored in full: PEFT's Kronecker product runs over [1, a, c] and [b, d, k], and is
    # read as [b a, d c k]. That is what its models compute.
    return Dense(torch.einsum("ac,bdk->badck", left, right).reshape(target.shape))


def _factor(target: Target, factor: str) -> torch.Tensor:
    if f"lokr_w{factor}" in target.parts:
        return target.part(f"lokr_w{factor}")
    left, right = (target.part(f"lokr_w{factor}_{side}") for side in "ab")
    if f"lokr_t{factor}" not in target.parts:
        return left @ right
    core = target.part(f"lokr_t{factor}").flatten(2)
    return torch.einsum("ijk,ip,jq->pqk", core, left, right).flatten(1)


LOKR = Family(
    method="LOKR",
    parse=by_suffix("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    update=update,
    label=called("LoKr"),
    rank=rank,
    fits=fits,
    needs_base=never,
    doubts=doubts,
)
