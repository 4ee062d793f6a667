"""DeLoRA (arXiv:2503.18225): factors of bounded norm.

`dW = B diag(lambda / (r ||A_i|| ||B_i||)) A diag(w)`, norms of the rows of A and the columns of B, no smaller than
1e-4; w, the norms of the columns of W0, are stored.
"""

import torch

from spectra.errors import MatchError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix, called, never
from spectra.text import listing, show
from spectra.updates import LowRank, Update

_LEAST = 1e-4


def rank(parts: Shapes, config: AdapterConfig) -> int:
    """Return the rank: the number of rows of A."""
    return parts["delora_A"][0]


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int]:
    """Return the `[out, in]` shape of `B A`."""
    A, B = parts.get("delora_A"), parts.get("delora_B")
    if A is None or B is None:
        raise MatchError(f"'{show(module)}': one of its factors is missing ({listing(parts)} is there).")
    if len(A) != 2 or len(B) != 2 or A[0] != B[1]:
        raise MatchError(f"'{show(module)}': its factors B {list(B)} and A {list(A)} disagree on the rank.")
    return B[0], A[1]


def update(target: Target) -> Update:
    """Return dW in factors."""
    A, B = target.part("delora_A").double(), target.part("delora_B").double()
    norms = A.norm(dim=1).clamp(min=_LEAST) * B.norm(dim=0).clamp(min=_LEAST)
    scale: torch.Tensor = target.part("delora_lambda").double() / (len(A) * norms)
    return LowRank((B * scale).float(), (A * target.part("delora_w_norm")).float())


DELORA = Family(
    method="DELORA",
    parse=by_suffix("delora_(?:A|B|lambda|w_norm)"),
    update=update,
    label=called("DeLoRA"),
    rank=rank,
    fits=fits,
    needs_base=never,
)
