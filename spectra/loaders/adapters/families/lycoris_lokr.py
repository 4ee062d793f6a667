"""LoKr (arXiv:2212.10650) as LyCORIS and kohya write it.

`dW = s w1 (x) w2`, each factor in full or as `a b`; the kernel of a convolution belongs to w2, flat or, with a Tucker
kernel `t2 [r, r, k...]`, as `w2[o, i, k] = sum_pq a[p, o] t2[p, q, k] b[q, i]`. s = alpha / r, once; 1 when both
factors are in full, whatever alpha the file has.
"""

import math

import torch

from spectra.errors import MatchError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.families.lycoris_dora import check_scale, decomposed, has_scale, named
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix
from spectra.text import listing, show
from spectra.updates import Kronecker, Update


def dimension(parts: Shapes) -> int | None:
    """Return the rank of the factored part, which alpha is divided by; None when both factors are in full."""
    shape = parts.get("lokr_w2_b") or parts.get("lokr_w1_b")
    return shape[0] if shape else None


def _factor_fits(parts: Shapes, factor: str) -> tuple[int, int] | None:
    """Return the shape of w1 or w2 as a matrix, None when its parts are missing, too many, or disagree."""
    full, a, b = (parts.get(f"lokr_w{factor}{side}") for side in ("", "_a", "_b"))
    t = parts.get(f"lokr_t{factor}")
    if full is not None:
        alone = a is None and b is None and t is None and len(full) > 1
        return (full[0], math.prod(full[1:])) if alone else None
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return None
    if t is None:
        return (a[0], b[1]) if a[1] == b[0] else None
    return (a[1], b[1] * math.prod(t[2:])) if t[:2] == (a[0], b[0]) else None


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int]:
    """Return the `[out, in]` shape of the product. Raises MatchError when a part is missing or they disagree."""
    first, second = _factor_fits(parts, "1"), _factor_fits(parts, "2")
    ranks = {parts[name][0] for name in ("lokr_w1_b", "lokr_w2_b") if parts.get(name)}
    if first is None or second is None or len(ranks) > 1 or "lokr_t1" in parts:
        shapes = [f"{name} {list(shape)}" for name, shape in parts.items() if name.startswith("lokr")]
        raise MatchError(f"'{show(module)}': its factors {listing(shapes)} do not make w1 and w2.")
    return check_scale(module, parts, (first[0] * second[0], first[1] * second[1]))


def rank(parts: Shapes, config: AdapterConfig) -> int | None:
    """Return the product of the ranks that both factors can have, None when none of them is factored."""
    return None if dimension(parts) is None else _rank_of(parts, "1") * _rank_of(parts, "2")


def _rank_of(parts: Shapes, factor: str) -> int:
    shape, inner = _factor_fits(parts, factor) or (0, 0), parts.get(f"lokr_w{factor}_b")
    return min(*shape, inner[0]) if inner else min(shape)


def _factor(target: Target, factor: str) -> torch.Tensor:
    if f"lokr_w{factor}" in target.parts:
        return target.part(f"lokr_w{factor}").flatten(1)
    a, b = target.part(f"lokr_w{factor}_a"), target.part(f"lokr_w{factor}_b")
    if f"lokr_t{factor}" in target.parts:
        a, b = a.T, torch.einsum("pq...,qi->pi...", target.part(f"lokr_t{factor}"), b).flatten(1)
    return a @ b


def update(target: Target) -> Update:
    """Return dW of one module as a Kronecker product."""
    scaling = target.config.scaling_of(target.module)
    return decomposed(target, Kronecker(_factor(target, "1") * scaling, _factor(target, "2")))


LOKR_FLAT = Family(
    method="LOKR (LyCORIS)",
    parse=by_suffix(
        "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t1", "lokr_t2",
        "alpha", "scalar", "dora_scale",
    ),
    update=update,
    label=named("LoKr"),
    rank=rank,
    fits=fits,
    needs_base=has_scale,
)  # fmt: skip
