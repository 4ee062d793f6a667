"""LoHa (arXiv:2108.06098) as LyCORIS and kohya write it.

`dW = s (w1_a w1_b) o (w2_a w2_b)`, s = alpha / r, once: LyCORIS' own merge multiplies by it a second time, its forward
does not. With Tucker kernels `t [r, r, k...]` each half is `sum_pq a[p, o] t[p, q, k] b[q, i]`, a as `[r, out]`.
"""

import math

import torch

from spectra.errors import MatchError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.families.lycoris_dora import check_scale, decomposed, has_scale, named
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix
from spectra.text import listing, show
from spectra.updates import Elementwise, LowRank, Update


def dimension(parts: Shapes) -> int | None:
    """Return the rank of either half, which alpha is divided by."""
    shape = parts.get("hada_w1_b")
    return shape[0] if shape else None


def rank(parts: Shapes, config: AdapterConfig) -> int | None:
    """Return the rank that a product of two halves of rank r can have."""
    r = dimension(parts)
    return None if r is None else r * r


def _half_fits(a: tuple[int, ...], b: tuple[int, ...], t: tuple[int, ...] | None) -> tuple[int, int] | None:
    if len(a) != 2 or len(b) != 2:
        return None
    if t is None:
        return (a[0], b[1]) if a[1] == b[0] else None
    return (a[1], b[1] * math.prod(t[2:])) if t[:2] == (a[0], b[0]) else None


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int]:
    """Return the `[out, in]` shape of both halves. Raises MatchError when a part is missing or they disagree."""
    missing = [f"hada_w{half}_{side}" for half in "12" for side in "ab" if f"hada_w{half}_{side}" not in parts]
    if missing or ("hada_t1" in parts) != ("hada_t2" in parts):
        raise MatchError(f"'{show(module)}': one of its factors is missing ({listing(parts)} is there).")
    halves = [_half_fits(parts[f"hada_w{i}_a"], parts[f"hada_w{i}_b"], parts.get(f"hada_t{i}")) for i in "12"]
    if halves[0] is None or halves[0] != halves[1]:
        shapes = [f"{name} {list(shape)}" for name, shape in parts.items() if name.startswith("hada")]
        raise MatchError(f"'{show(module)}': its factors {listing(shapes)} do not fit together.")
    return check_scale(module, parts, halves[0])


def _half(target: Target, half: str, scaling: float) -> LowRank:
    a, b = target.part(f"hada_w{half}_a"), target.part(f"hada_w{half}_b")
    if f"hada_t{half}" in target.parts:
        a, b = a.T, torch.einsum("pq...,qi->pi...", target.part(f"hada_t{half}"), b).flatten(1)
    return LowRank(a * scaling, b)


def update(target: Target) -> Update:
    """Return dW of one module as the elementwise product of two low-rank halves."""
    scaling = target.config.scaling_of(target.module)
    return decomposed(target, Elementwise(_half(target, "1", 1.0), _half(target, "2", scaling)))


LOHA_FLAT = Family(
    method="LOHA (LyCORIS)",
    parse=by_suffix(
        "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2", "alpha", "scalar", "dora_scale"
    ),
    update=update,
    label=named("LoHa"),
    rank=rank,
    fits=fits,
    needs_base=has_scale,
)
