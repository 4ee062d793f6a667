"""LoRA on some of the projections that one weight fuses: the MergedLinear of loralib, the fused qkv of AdapterHub.

The outputs are cut into as many blocks as there are flags, and each enabled block has factors of its own:
`A` `[r g, in]` and `B` `[out / blocks * g, r]` for g enabled blocks, block by block; `dW_block = s B_block A_block`.
A block that is not enabled is not changed. In PyTorch that is a grouped convolution of kernel 1.
"""

import torch

from spectra.errors import MatchError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix, called, never
from spectra.text import listing, show
from spectra.updates import LowRank, Stacked, Update, nothing

PARTS = ("lora_A", "lora_B")


def merged_linear(enabled: tuple[bool, ...]) -> Family:
    """Return the family of weights whose blocks are adapted where `enabled` says so. At least one must be."""
    groups = sum(enabled)

    def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int]:
        if not parts.keys() >= set(PARTS):
            raise MatchError(f"'{show(module)}': one of its factors is missing ({listing(parts)} is there).")
        A, B = (parts[part] for part in PARTS)
        if len(A) != 2 or len(B) != 2 or A[0] != groups * B[1] or B[0] % groups:
            raise MatchError(
                f"'{show(module)}': its factors B {list(B)} and A {list(A)} are not those of {groups} enabled blocks."
            )
        return B[0] // groups * len(enabled), A[1]

    def update(target: Target) -> Update:
        A, B = target.part("lora_A"), target.part("lora_B")
        scaling = target.config.scaling_of(target.module, B.shape[1])
        size = len(B) // groups
        own = iter(zip(torch.split(B * scaling, size), torch.split(A, B.shape[1]), strict=True))
        blocks = [LowRank(*next(own)) if on else nothing((size, A.shape[1]), A) for on in enabled]
        return Stacked(tuple(blocks))

    return Family(
        method="LORA",
        parse=by_suffix(*PARTS),
        update=update,
        label=called("LoRA"),
        rank=lambda parts, config: parts["lora_A"][0],
        fits=fits,
        needs_base=never,
    )
