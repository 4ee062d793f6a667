"""Which weights lie transposed in their file: the Conv1D of GPT-2 and its relatives, `[in, out]`.

Shapes alone cannot tell for square weights, so the architecture decides: the live module's class,
the configuration's `model_type` (also that of a part, as the decoder of an image captioner), or a
fused `c_attn` that is three times as wide as it is tall.
"""

from collections.abc import Callable, Mapping
from typing import Any

from spectra.loaders.header import TensorInfo

CONV1D_MODULES = ("c_attn", "c_proj", "c_fc", "c_fc2", "q_attn")
CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp", "clvp_decoder")


def transposed_keys(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Callable[[str], bool]:
    """Return a test of base keys: is this weight stored `[in, out]`?"""
    live = config.get("transposed_modules")
    if isinstance(live, list):
        named = {f"{module}.weight" for module in live}
        return named.__contains__
    if _is_turned_already(tensors) or not (_declares_conv1d(config) or _looks_like_gpt2(tensors)):
        return lambda _: False
    return lambda key: key.removesuffix(".weight").rpartition(".")[2] in CONV1D_MODULES


def _declares_conv1d(config: Mapping[str, Any]) -> bool:
    parts = [config, *(part for part in config.values() if isinstance(part, Mapping))]
    return any(part.get("model_type") in CONV1D_MODELS for part in parts)


def _is_turned_already(tensors: Mapping[str, TensorInfo]) -> bool:
    """Whether the fused projections lie `[3 d, d]`, as they do where a converter has turned all Conv1D weights."""
    fused = [info.shape for key, info in tensors.items() if key.endswith("attn.c_attn.weight")]
    return bool(fused) and all(len(shape) == 2 and shape[0] == 3 * shape[1] for shape in fused)


def _looks_like_gpt2(tensors: Mapping[str, TensorInfo]) -> bool:
    fused = [info.shape for key, info in tensors.items() if key.endswith("attn.c_attn.weight")]
    return bool(fused) and all(len(shape) == 2 and shape[1] == 3 * shape[0] for shape in fused)
