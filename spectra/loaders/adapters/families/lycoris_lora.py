"""LoRA as kohya, LyCORIS (LoCon, arXiv:2309.14859) and A1111 write it: linear, convolution, Tucker, DoRA, DyLoRA.

`dW = s up down`, s = alpha / r. With a `lora_mid [r, r, k...]` the kernel is in the middle:
`dW[o, i, k] = s sum_pq up[o, p] mid[p, q, k] down[q, i]`. DyLoRA saves its pieces joined, as LoRA of full rank.
"""

import math
from itertools import pairwise

import torch

from spectra.errors import MatchError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.families.lycoris_dora import check_scale, decomposed, has_scale, named
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix
from spectra.text import listing, show
from spectra.updates import LowRank, Update

_FUSED = ("qkv", "linear1")


def dimension(parts: Shapes) -> int | None:
    """Return the rank that alpha is divided by, None where the factor is missing."""
    down = parts.get("lora_down")
    return down[0] if down else None


def rank(parts: Shapes, config: AdapterConfig) -> int | None:
    """Return the stored rank."""
    return dimension(parts)


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int]:
    """Return the `[out, in]` shape of the product. Raises MatchError when a factor is missing or ranks disagree."""
    up, mid, down = (parts.get(name) for name in ("lora_up", "lora_mid", "lora_down"))
    if up is None or down is None:
        raise MatchError(f"'{show(module)}': one of its factors is missing ({listing(parts)} is there).")
    chain, pointwise = ([up, down], [up]) if mid is None else ([up, mid, down], [up, down])
    linked = all(len(shape) > 1 for shape in chain) and all(left[1] == right[0] for left, right in pairwise(chain))
    if not linked or any(math.prod(shape[2:]) != 1 for shape in pointwise):
        raise MatchError(f"'{show(module)}': its factors {listing(map(list, chain))} do not chain.")
    return check_scale(module, parts, (up[0], down[1] * math.prod((mid or down)[2:])))


def doubts(module: str, parts: Shapes, config: AdapterConfig) -> list[str]:
    """Say where kohya's file and kohya's training scale a fused projection differently."""
    if not config.raw.get("split_qkv") or not module.endswith(_FUSED):
        return []
    return ["trained as separate q, k, v (split_qkv): training scaled them by alpha over a part of the rank, every "
            "loader of the file by alpha over all of it, which is taken"]  # fmt: skip


def update(target: Target) -> Update:
    """Return dW of one module as two factors."""
    B, A = target.part("lora_up").flatten(1), target.part("lora_down").flatten(1)
    if "lora_mid" in target.parts:
        A = torch.einsum("pq...,qi->pi...", target.part("lora_mid"), A).flatten(1)
    return decomposed(target, LowRank(B * target.config.scaling_of(target.module), A))


LOCON = Family(
    method="LOCON",
    parse=by_suffix("lora_up", "lora_down", "lora_mid", "alpha", "scalar", "dora_scale"),
    update=update,
    label=named("LoRA"),
    rank=rank,
    fits=fits,
    needs_base=has_scale,
    doubts=doubts,
    scaled=True,
)
