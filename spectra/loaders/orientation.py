"""Which weights lie transposed in their file: the Conv1D of GPT-2 and its relatives, `[in, out]`.

Shapes alone cannot tell for square weights, so the architecture decides: the live module's class,
the configuration's `model_type`, or a fused `c_attn` that is wider than it is tall.
"""

from collections.abc import Callable, Mapping
from typing import Any

from spectra.loaders.header import TensorInfo

CONV1D_MODULES = ("c_attn", "c_proj", "c_fc", "q_attn")
CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp", "clvp_decoder")


def transposed_keys(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Callable[[str], bool]:
    """Return a test of base keys: is this weight stored `[in, out]`?"""
    live = config.get("transposed_modules")
    if isinstance(live, list):
        named = {f"{module}.weight" for module in live}
        return named.__contains__
    model_type = config.get("model_type")
    conv1d = model_type in CONV1D_MODELS if isinstance(model_type, str) else _looks_like_gpt2(tensors)
    if not conv1d:
        return lambda _: False
    return lambda key: key.removesuffix(".weight").rpartition(".")[2] in CONV1D_MODULES


def _looks_like_gpt2(tensors: Mapping[str, TensorInfo]) -> bool:
    fused = [info.shape for key, info in tensors.items() if key.endswith("attn.c_attn.weight")]
    return bool(fused) and all(len(shape) == 2 and shape[1] == 3 * shape[0] for shape in fused)
