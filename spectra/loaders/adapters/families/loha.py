"""LoHa (arXiv:2108.06098): `dW = s (w1_a w1_b) o (w2_a w2_b)`, entry by entry, `s = alpha / r`, of rank up to r^2.

A convolution is flat, or has a core `t [r, r, k, ...]` a half ("effective"): half `[p, q, k]` is the sum over i and j
of `t[i, j, k] w_a[i, p] w_b[j, q]`. Either way each half has rank r.
"""

import math

import torch

from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.families.stored import disagreement, shape_of
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix, called, never
from spectra.updates import Elementwise, LowRank


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int]:
    """Return the `[out, in]` shape of both halves, kernels flat."""
    first, second = (_half_fits(module, parts, half) for half in "12")
    if first != second:
        raise disagreement(module, parts)
    return first


def _half_fits(module: str, parts: Shapes, half: str) -> tuple[int, int]:
    a, b = (shape_of(module, parts, f"hada_w{half}_{side}") for side in "ab")
    core = parts.get(f"hada_t{half}")
    if core is None:
        if a[1] != b[0]:
            raise disagreement(module, parts)
        return a[0], b[1]
    if core[:2] != (a[0], b[0]):
        raise disagreement(module, parts)
    return a[1], b[1] * math.prod(core[2:])


def stored_rank(parts: Shapes) -> int:
    """Return r, the rank of the first half."""
    return shape_of("", parts, "hada_w1_b")[0]


def rank(parts: Shapes, config: AdapterConfig) -> int:
    """Return the largest rank that the product can have."""
    return min(stored_rank(parts) * shape_of("", parts, "hada_w2_b")[0], *fits("", parts, config))


def doubts(module: str, parts: Shapes, config: AdapterConfig) -> list[str]:
    """Say what file and configuration leave open about the scaling."""
    return config.doubts_of(module, stored_rank(parts))


def update(target: Target) -> Elementwise:
    """Return dW of one module, the scaling in its first half."""
    first, second = (_half(target, half) for half in "12")
    scaling = target.config.scaling_of(target.module, len(target.part("hada_w1_b")))
    return Elementwise(LowRank(first.B * scaling, first.A), second)


def _half(target: Target, half: str) -> LowRank:
    a, b = (target.part(f"hada_w{half}_{side}") for side in "ab")
    if f"hada_t{half}" not in target.parts:
        return LowRank(a, b)
    core = target.part(f"hada_t{half}").flatten(2)
    return LowRank(a.T, torch.einsum("ijk,jq->iqk", core, b).flatten(1))


LOHA = Family(
    method="LOHA",
    parse=by_suffix("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    update=update,
    label=called("LoHa"),
    rank=rank,
    fits=fits,
    needs_base=never,
    doubts=doubts,
)
