"""LoRA (arXiv:2106.09685) as PEFT writes it: linear, Conv1D, convolution, embedding, rsLoRA, DoRA.

`dW = s B A` with `s = alpha / r` (rsLoRA: `alpha / sqrt(r)`). DoRA (arXiv:2402.09353) rescales
`V = W0 + s B A` to `W' = diag(m / ||V||) V`, the norm taken along the inputs of each output.
"""

import re
from collections.abc import Mapping

import torch

from spectra.errors import MatchError, UnsupportedError
from spectra.layout import Layout
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family, Target
from spectra.text import show
from spectra.updates import LowRank, Rescaled, Update

_PARAMETER = re.compile(
    r"^(?P<module>.+?)\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)"
    r"(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?(?:\.(?P<leaf>weight|bias))?$"
)

# Options that change what dW is. Reading such a file as plain LoRA would be wrong without a word.
_REFUSED = {
    "target_parameters": "targets fused expert tensors (target_parameters)",
    "layer_replication": "replicates layers of the base (layer_replication)",
    "use_qalora": "is QA-LoRA, whose A acts on pooled inputs (use_qalora)",
    "use_bdlora": "stores a factor as diagonal blocks (use_bdlora)",
    "kasa_config": "removes part of the base first (KaSA)",
    "trainable_token_indices": "replaces single rows of the embedding (trainable_token_indices)",
    "enable_lora": "is the MergedLinear of PEFT 0.2 or loralib, with grouped factors (enable_lora)",
    "arrow_config": "mixes experts per token (Arrow)",
}
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def check(config: AdapterConfig) -> None:
    """Refuse by name what this family does not read."""
    for option, meaning in _REFUSED.items():
        value = config.raw.get(option)
        if value not in (None, False, [], {}):
            raise UnsupportedError(f"this LoRA adapter {meaning}; this version of spectra does not read it.")
    start = config.raw.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(_CHANGES_BASE):
        raise UnsupportedError(
            f"this adapter was started with init_lora_weights='{show(start)}', which changes the base: its dW is "
            "not s B A. Save it with PEFT's path_initial_model_for_weight_conversion, which makes it plain LoRA."
        )


def parse(key: str) -> tuple[str, str, str | None] | None:
    """Split a tensor name into module, part (`lora_A`, `lora_B.bias`, ...) and adapter name."""
    match = _PARAMETER.match(key)
    if match is None:
        return None
    leaf = ".bias" if match["leaf"] == "bias" else ""
    return match["module"], match["part"] + leaf, match["adapter"]


def label(config: AdapterConfig, parts: Mapping[str, object]) -> str:
    """Name the method as people say it."""
    plain = "rsLoRA" if config.use_rslora else "LoRA"
    return "DoRA" if config.use_dora or "lora_magnitude_vector" in parts else plain


def rank(parts: Mapping[str, tuple[int, ...]]) -> int:
    """Return the stored rank: the number of rows of A."""
    shape = parts.get("lora_A") or parts.get("lora_embedding_A")
    if shape is None:
        raise MatchError("lora_B without lora_A")
    return shape[0]


def fits(parts: Mapping[str, tuple[int, ...]]) -> tuple[int, int] | None:
    """Return the `[out, in]` shape of `B A`, None when a factor is missing."""
    if "lora_embedding_A" in parts and "lora_embedding_B" in parts:
        return parts["lora_embedding_A"][1], parts["lora_embedding_B"][0]
    if "lora_A" in parts and "lora_B" in parts:
        return parts["lora_B"][0], Layout("kernel", parts["lora_A"]).shape[1]
    return None


def update(target: Target, config: AdapterConfig) -> Update:
    """Return dW of one module, in factors wherever it has them."""
    parts = target.parts
    scaling = config.scaling_of(target.module)
    if "lora_embedding_A" in parts:
        B, A = parts["lora_embedding_A"].float().T * scaling, parts["lora_embedding_B"].float().T
        axis = "columns"
    else:
        A = parts["lora_A"].float().flatten(1)
        B = parts["lora_B"].float().flatten(1) * scaling
        axis = "rows"
    low_rank = LowRank(B, A)
    magnitude = parts.get("lora_magnitude_vector")
    if magnitude is None:
        if config.use_dora:
            raise MatchError(f"'{show(target.module)}': DoRA without its lora_magnitude_vector.")
        return low_rank
    base = target.base()
    rows = min(base.shape[0], low_rank.shape[0])
    direction = (base + low_rank.dense()) if rows == base.shape[0] == low_rank.shape[0] else None
    if direction is None:
        raise UnsupportedError(f"'{show(target.module)}': DoRA on a grown vocabulary is not read.")
    norm = torch.linalg.vector_norm(direction.double(), dim=1 if axis == "rows" else 0)
    gain = (magnitude.double().flatten() / norm).float()
    return Rescaled(base, low_rank, gain, axis="rows" if axis == "rows" else "columns")


LORA = Family("LORA", check, parse, label, rank, fits, update)
