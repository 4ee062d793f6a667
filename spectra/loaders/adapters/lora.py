"""LoRA (arXiv:2106.09685) as PEFT writes it: linear, Conv1D, convolution, embedding, rsLoRA, DoRA.

`dW = s B A` with `s = alpha / r` (rsLoRA: `alpha / sqrt(r)`). DoRA (arXiv:2402.09353) rescales
`V = W0 + s B A` to `W' = diag(m / ||V||) V`, the norm taken along the inputs of each output.
"""

import math
import re

import torch

from spectra.errors import MatchError, UnsupportedError
from spectra.layout import Layout
from spectra.loaders.adapters.config import CHANGES_BASE, REFUSED_OPTIONS, AdapterConfig
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix
from spectra.text import listing, show
from spectra.updates import LowRank, Rescaled, Update

_STATE = re.compile(r"\.(?:lora_velora_embed|lora_monteclora_sampler)(?:\.|$)")


def check(config: AdapterConfig) -> None:
    """Refuse by name what this family does not read."""
    for option, meaning in REFUSED_OPTIONS.items():
        value = config.raw.get(option)
        if value not in (None, False, [], {}):
            raise UnsupportedError(f"this LoRA adapter {meaning}; this version of spectra does not read it.")
    start = config.raw.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
        raise UnsupportedError(
            f"this adapter was started with init_lora_weights='{show(start)}', which changes the base: its dW is "
            "not s B A. Save it with PEFT's path_initial_model_for_weight_conversion, which makes it plain LoRA."
        )


def is_state(key: str) -> bool:
    """Return whether a tensor is what VeLoRA or MonteCLoRA keep of training; their update is plain LoRA."""
    return _STATE.search(key) is not None


def notes(config: AdapterConfig) -> tuple[str, ...]:
    """Say under which condition the update acts at all."""
    if config.raw.get("alora_invocation_tokens"):
        return ("activated LoRA: the update acts only on the tokens after its invocation tokens",)
    return ()


def label(config: AdapterConfig, parts: Shapes) -> str:
    """Name the method as people say it."""
    plain = "rsLoRA" if config.use_rslora else "LoRA"
    return "DoRA" if config.use_dora or needs_base(parts, config) else plain


def needs_base(parts: Shapes, config: AdapterConfig) -> bool:
    """Return whether dW depends on the base weight, as that of DoRA does."""
    return "lora_magnitude_vector" in parts


def rank(parts: Shapes, config: AdapterConfig) -> int:
    """Return the stored rank: the number of rows of A."""
    shape = parts.get("lora_A") or parts.get("lora_embedding_A")
    if shape is None:
        raise MatchError("lora_B without lora_A")
    return shape[0]


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int]:
    """Return the `[out, in]` shape of `B A`. Raises MatchError when a part is missing or the ranks disagree."""
    embedding = "lora_embedding_A" in parts or "lora_embedding_B" in parts
    A, B = (parts.get(f"lora_{'embedding_' * embedding}{factor}") for factor in "AB")
    if A is None or B is None:
        raise MatchError(f"'{show(module)}': one of its factors is missing ({listing(parts)} is there).")
    if config.use_dora and not needs_base(parts, config):
        raise MatchError(f"'{show(module)}': DoRA without its lora_magnitude_vector.")
    if len(A) < 2 or len(B) < 2 or (B[1] != A[0] and (len(A) == 2 or not B[1] or A[0] % B[1])):
        raise MatchError(f"'{show(module)}': its factors B {list(B)} and A {list(A)} disagree on the rank.")
    fit = (A[1], B[0]) if embedding else (B[0], Layout("kernel", A).shape[1])
    magnitude, length = parts.get("lora_magnitude_vector"), fit[1 if embedding else 0]
    if magnitude is not None and math.prod(magnitude) != length:
        raise MatchError(
            f"'{show(module)}': its lora_magnitude_vector is {list(magnitude)}, its factors need {length} values."
        )
    return fit


def doubts(module: str, parts: Shapes, config: AdapterConfig) -> list[str]:
    """Say what file and configuration leave open about the scaling, and what was taken."""
    stored = rank(parts, config)
    declared, alphas = config.rank_of(module, stored), config.alphas_of(module)
    notes = []
    if stored != declared:
        notes.append(f"stored rank {stored}, but the configuration says {declared}; the scaling uses that")
    if len(set(alphas)) > 1:
        notes.append(f"several alpha_patterns match and PEFT does not save their order: alpha {alphas[0]:g} is taken")
    return notes


def update(target: Target) -> Update:
    """Return dW of one module, in factors wherever it has them."""
    parts, config, embedding = target.parts, target.config, "lora_embedding_A" in target.parts
    stored = rank({part: tuple(tensor.shape) for part, tensor in parts.items()}, config)
    scaling = config.scaling_of(target.module, stored)
    if embedding:
        B, A = parts["lora_embedding_A"].float().T * scaling, parts["lora_embedding_B"].float().T
    else:
        B, A = parts["lora_B"].float().flatten(1) * scaling, parts["lora_A"].float().flatten(1)
    low_rank = LowRank(B, A)
    magnitude = parts.get("lora_magnitude_vector")
    if magnitude is None:
        return low_rank
    # The norm runs over the inputs of each output; for an embedding, over the vocabulary of each dimension.
    base = target.base()
    norm = torch.linalg.vector_norm((base + low_rank.dense()).double(), dim=0 if embedding else 1)
    gain = (magnitude.double().flatten() / norm).float()
    return Rescaled(base, low_rank, gain, axis="columns" if embedding else "rows")


LORA = Family(
    method="LORA",
    parse=by_suffix("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector"),
    update=update,
    label=label,
    rank=rank,
    fits=fits,
    needs_base=needs_base,
    check=check,
    notes=notes,
    doubts=doubts,
    is_state=is_state,
)
