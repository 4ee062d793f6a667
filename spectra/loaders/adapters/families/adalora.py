"""AdaLoRA (arXiv:2303.10512): `dW = s B diag(E) A`, of the rank that its budget left each module.

The divisor of `s = alpha / (init_r + 1e-5)` stays that of the start of training, however much was pruned since; an
alpha that is not above zero stands for the number of triplets kept.
"""

from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.families.stored import disagreement, shape_of
from spectra.loaders.adapters.families.tokens import TOKENS
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix, called, never
from spectra.updates import LowRank

_ALPHA, _INIT_R = 8, 12  # PEFT's defaults


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int]:
    """Return the `[out, in]` shape of `B diag(E) A`."""
    A, B, E = (shape_of(module, parts, f"lora_{factor}") for factor in "ABE")
    if not A[0] == B[1] == E[0] or E[1] != 1:
        raise disagreement(module, parts)
    return B[0], A[1]


def rank(parts: Shapes, config: AdapterConfig) -> int:
    """Return the number of triplets that are left."""
    return shape_of("", parts, "lora_A")[0]


def update(target: Target) -> LowRank:
    """Return dW of one module; a convolution's A is flat on disk."""
    A, B, E = (target.part(f"lora_{factor}") for factor in "ABE")
    alpha = target.config.number_in("lora_alpha", _ALPHA)
    scaling = (alpha if alpha > 0 else len(A)) / (target.config.rank_in("init_r", _INIT_R) + 1e-5)
    return LowRank(B * (scaling * E.T), A)


ADALORA = Family(
    method="ADALORA",
    parse=by_suffix("lora_A", "lora_B", "lora_E"),
    update=update,
    label=called("AdaLoRA"),
    rank=rank,
    fits=fits,
    needs_base=never,
    beside=(TOKENS,),
)
