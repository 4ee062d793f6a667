"""LoRA (arXiv:2106.09685) as PEFT writes it: linear, Conv1D, convolution, embedding, rsLoRA, DoRA.

`dW = s B A` with `s = alpha / r` (rsLoRA: `alpha / sqrt(r)`), less what the start took out of the base (`starts`).
DoRA (arXiv:2402.09353) rescales `V = W0 + dW` to `W' = diag(m / ||V||) V`, the norm taken along the inputs of each
output. What options make of the stored factors: `lora_factors`.
"""

import math
import re

import torch

from spectra.errors import MatchError, UnsupportedError
from spectra.loaders.adapters.config import REFUSED_OPTIONS, AdapterConfig
from spectra.loaders.adapters.families import lora_factors, starts
from spectra.loaders.adapters.families.lora_factors import factors
from spectra.loaders.adapters.families.taken import taken
from spectra.loaders.adapters.families.tokens import TOKENS
from spectra.loaders.adapters.family import Family, Fit, Shapes, Target, by_suffix
from spectra.text import show
from spectra.updates import LowRank, Rescaled, Sum, Update

_STATE = re.compile(r"\.(?:lora_velora_embed|lora_monteclora_sampler)(?:\.|$)")


def check(config: AdapterConfig) -> None:
    """Refuse by name what this family does not read."""
    for option, meaning in REFUSED_OPTIONS.items():
        value = config.raw.get(option)
        if value not in (None, False, [], {}):
            raise UnsupportedError(f"this LoRA adapter {meaning}; this version of spectra does not read it.")
    reason = starts.refusal(config) or lora_factors.refusal(config)
    if reason is not None:
        raise UnsupportedError(reason)


def is_state(key: str) -> bool:
    """Return whether a tensor is what VeLoRA or MonteCLoRA keep of training; their update is plain LoRA."""
    return _STATE.search(key) is not None


def notes(config: AdapterConfig) -> tuple[str, ...]:
    """Say under which condition the update acts at all."""
    if config.raw.get("alora_invocation_tokens"):
        return ("activated LoRA: the update acts only on the tokens after its invocation tokens",)
    return ()


def label(config: AdapterConfig, parts: Shapes) -> str:
    """Name the method as people say it: its scale, its start or option, and whether a start is left out."""
    plain = "rsLoRA" if config.use_rslora else "LoRA"
    plain = "DoRA" if config.use_dora or _is_dora(parts) else plain
    start = starts.name_of(config)
    options = {"QA-LoRA": config.flag_in("use_qalora"), "BD-LoRA": bool(config.raw.get("use_bdlora"))}
    kind = start or next((name for name, used in options.items() if used), "")
    named = f"{plain} ({kind})" if kind and plain != "LoRA" else kind or plain
    return f"{named} (as stored)" if start and config.as_stored else named


def needs_base(parts: Shapes, config: AdapterConfig) -> bool:
    """Return whether dW depends on the base weight, as that of DoRA and of PiSSA does."""
    recomputed = bool(starts.name_of(config)) and not (config.as_stored or config.initial)
    return _is_dora(parts) or (recomputed and "lora_embedding_A" not in parts)


def _is_dora(parts: Shapes) -> bool:
    return "lora_magnitude_vector" in parts


def rank(parts: Shapes, config: AdapterConfig) -> int:
    """Return the stored rank: the number of rows of A."""
    shape = parts.get("lora_A") or parts.get("lora_embedding_A")
    if shape is None:
        raise MatchError("lora_B without lora_A")
    return shape[0]


def fits(module: str, parts: Shapes, config: AdapterConfig) -> Fit:
    """Return the `[out, in]` shape of `B A`. Raises MatchError when a part is missing or the ranks disagree."""
    fit = lora_factors.fits(module, parts, config)
    if config.use_dora and not _is_dora(parts):
        raise MatchError(f"'{show(module)}': DoRA without its lora_magnitude_vector.")
    magnitude, length = parts.get("lora_magnitude_vector"), fit["lora_embedding_A" in parts]
    if magnitude is not None and math.prod(magnitude) != length:
        raise MatchError(
            f"'{show(module)}': its lora_magnitude_vector is {list(magnitude)}, its factors need {length} values."
        )
    return fit


def doubts(module: str, parts: Shapes, config: AdapterConfig) -> list[str]:
    """Say what file and configuration leave open about the scaling, and what was made of the start."""
    return config.doubts_of(module, rank(parts, config)) + starts.doubts(config)


def update(target: Target) -> Update:
    """Return dW of one module, in factors wherever it has them."""
    embedding = "lora_embedding_A" in target.parts
    inner = _plain(target)
    magnitude = target.parts.get("lora_magnitude_vector")
    if magnitude is None:
        return inner
    # The norm runs over the inputs of each output; for an embedding, over the vocabulary of each dimension.
    base = target.base()
    norm = torch.linalg.vector_norm((base + inner.dense()).double(), dim=0 if embedding else 1)
    gain = (magnitude.double().flatten() / norm).float()
    return Rescaled(base, inner, gain, axis="columns" if embedding else "rows")


def _plain(target: Target) -> LowRank | Sum:
    """Return `s B A` less what the start took out of the base."""
    trained, initial = LowRank(*factors(target)), target.initial
    started = [taken(target), LowRank(*factors(initial)) if initial is not None else None]
    less = [LowRank(-one.B, one.A) for one in started if one is not None]
    return Sum((trained, *less)) if less else trained


LORA = Family(
    method="LORA",
    parse=by_suffix(*lora_factors.PARTS, "lora_magnitude_vector"),
    update=update,
    label=label,
    rank=rank,
    fits=fits,
    needs_base=needs_base,
    check=check,
    notes=notes,
    doubts=doubts,
    is_state=is_state,
    beside=(TOKENS,),
    scaled=True,
)
