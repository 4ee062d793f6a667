"""VB-LoRA (arXiv:2405.15179): the factors of LoRA, cut into segments, each a mixture of few vectors of one bank.

A segment of L entries is the mean of its top k bank vectors, weighted by the softmax of their logits; `dW = B A`.
Files made with `save_only_topk_weights` hold the k indices and all weights but the last, which is one less their sum.
"""

import torch

from spectra.errors import MatchError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix, called, never
from spectra.text import listing, show
from spectra.updates import LowRank, Update

_BANK = "vblora_vector_bank"


def rank(parts: Shapes, config: AdapterConfig) -> int:
    """Return the rank: the number of rows of A."""
    shape = parts.get("vblora_logits_A") or parts.get("vblora_logits_A_topk_indices")
    if shape is None:
        raise MatchError("vblora_logits_B without vblora_logits_A")
    return shape[0]


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int]:
    """Return the `[out, in]` shape of `B A`."""
    A, B = (parts.get(f"vblora_logits_{side}") or parts.get(f"vblora_logits_{side}_topk_indices") for side in "AB")
    if A is None or B is None:
        raise MatchError(f"'{show(module)}': one of its factors is missing ({listing(parts)} is there).")
    if len(A) != 3 or len(B) != 3 or A[0] != B[1]:
        raise MatchError(f"'{show(module)}': its logits of B {list(B)} and A {list(A)} disagree on the rank.")
    length = config.rank_in("vector_length", 256)
    return B[0] * length, A[1] * length


def update(target: Target) -> Update:
    """Return `B A`, both put together from the bank."""
    bank = target.shared(_BANK).double()
    A, B = (_mixed(target, f"vblora_logits_{side}", bank) for side in "AB")  # [r, in / L, L] and [out / L, r, L]
    return LowRank(B.transpose(1, 2).flatten(0, 1).float(), A.flatten(1).float())


def _mixed(target: Target, part: str, bank: torch.Tensor) -> torch.Tensor:
    if part in target.parts:
        logits, index = target.part(part).double().topk(target.config.rank_in("topk", 2), dim=-1)
        weights = torch.softmax(logits, dim=-1)
    else:
        first = target.part(f"{part}_topk_weights").double()
        weights = torch.cat([first, 1 - first.sum(-1, keepdim=True)], dim=-1)
        index = target.part(f"{part}_topk_indices").long()
    if int(index.max()) >= len(bank):
        raise MatchError(f"'{show(target.module)}': {part} names a vector beyond the {len(bank)} of the bank.")
    mixed = bank.new_zeros(*index.shape[:-1], bank.shape[1])
    for place in range(index.shape[-1]):
        mixed += weights[..., place, None] * bank[index[..., place]]
    return mixed


VBLORA = Family(
    method="VBLORA",
    parse=by_suffix(r"vblora_logits_[AB](?:_topk_(?:indices|weights))?"),
    update=update,
    label=called("VB-LoRA"),
    rank=rank,
    fits=fits,
    needs_base=never,
    shared=_BANK,
    integers=("vblora_logits_A_topk_indices", "vblora_logits_B_topk_indices"),
)
