"""Poly (arXiv:2202.13914) and MHR (arXiv:2211.03831): LoRA mixed from a few skills, another mixture for each task.

Of one task, each of the splits of the inputs (of A) and of the outputs (of B) mixes the skills by
`sigmoid(logits) / sum`; then `dW = (A B)^T / r` with A `[in, r]` and B `[r, out]`.
"""

import torch

from spectra.errors import MatchError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family, Parsed, Shapes, Target, by_path, by_suffix, called, never
from spectra.text import listing, show
from spectra.updates import LowRank, Update

_LOGITS, _LEAST = "poly_router.module_logits", 1e-12
_factors, _router = by_suffix("poly_lora_[AB]"), by_path("poly_router", "module_logits")


def parse(name: str) -> Parsed | None:
    """Split a name into module, part and adapter."""
    return _factors(name) or _router(name)


def rank(parts: Shapes, config: AdapterConfig) -> int:
    """Return the rank of one task's update."""
    return parts["poly_lora_A"][3]


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int]:
    """Return the `[out, in]` shape of all splits together."""
    A, B, logits = parts.get("poly_lora_A"), parts.get("poly_lora_B"), parts.get(_LOGITS)
    if A is None or B is None or logits is None:
        raise MatchError(f"'{show(module)}': part of it is missing ({listing(parts)} is there).")
    if len(A) != 4 or len(B) != 4 or A[:2] != B[:2] or A[3] != B[2] or logits != (1, A[0] * A[1]):
        raise MatchError(
            f"'{show(module)}': its A {list(A)}, B {list(B)} and logits {list(logits)} of one task do not fit together."
        )
    return B[0] * B[3], A[0] * A[2]


def update(target: Target) -> Update:
    """Return dW in factors."""
    A, B = target.part("poly_lora_A").double(), target.part("poly_lora_B").double()
    weights = torch.sigmoid(target.part(_LOGITS).double().reshape(A.shape[:2]))
    weights = weights / (weights.sum(dim=-1, keepdim=True) + _LEAST)
    down = torch.einsum("qs,qsdr->qdr", weights, A).flatten(0, 1)
    up = torch.einsum("qs,qsrd->rqd", weights, B).flatten(1)
    return LowRank((up.T / up.shape[0]).float(), down.T.float())


POLY = Family(
    method="POLY",
    parse=parse,
    update=update,
    label=called("Poly"),
    rank=rank,
    fits=fits,
    needs_base=never,
)
