"""Which weights lie transposed in their file: the Conv1D of GPT-2 and its relatives, `[in, out]`.

Shapes alone cannot tell for square weights, so the architecture decides: the live module's class,
the configuration's `model_type` (also that of a part, as the decoder of an image captioner), or a
fused `c_attn` that is three times as wide as it is tall. A `model_type` that is in neither list below
says nothing: whoever writes a model of their own gives it a name.
"""

from collections.abc import Callable, Mapping
from typing import Any

from spectra.loaders.header import TensorInfo

CONV1D_MODULES = ("c_attn", "c_proj", "c_fc", "c_fc2", "q_attn")
CONV1D_MODELS = ("gpt2", "openai-gpt", "imagegpt", "decision_transformer", "clvp", "clvp_decoder")
# Built without Conv1D; a test holds both lists against the code of transformers.
_LINEAR = """
albert aya_vision bart bert big_bird bigbird_pegasus blip blip-2 bloom camembert chameleon clip clip_text_model
clip_vision_model codegen cohere cohere2 dbrx deberta deberta-v2 deepseek_v2 deepseek_v3 detr dinov2 distilbert
electra ernie ernie4_5 esm exaone4 falcon falcon_h1 falcon_mamba flaubert florence2 funnel gemma gemma2 gemma3
gemma3_text gemma3n glm glm4 glm4_moe glm4v gpt_bigcode gpt_neo gpt_neox gpt_oss gptj granite granitemoe helium
hubert idefics2 idefics3 internvl jamba layoutlm led llama llama4 llama4_text llava llava_next longformer m2m_100
mamba mamba2 marian mbart ministral mistral mistral3 mixtral mllama mobilebert modernbert mpnet mpt mt5 nemotron
olmo olmo2 olmo3 olmoe opt paligemma pegasus persimmon phi phi3 phimoe pixtral qwen2 qwen2_5_vl qwen2_moe qwen2_vl
qwen3 qwen3_moe qwen3_vl recurrent_gemma roberta roformer sam siglip siglip_text_model siglip_vision_model smollm3
smolvlm speech_to_text stablelm starcoder2 swin t5 trocr umt5 vit vit_mae wav2vec2 whisper xglm xlm xlm-roberta
xlm-roberta-xl xlnet zamba2
"""
LINEAR_MODELS = frozenset(_LINEAR.split())


def transposed_keys(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> Callable[[str], bool]:
    """Return a test of base keys: is this weight stored `[in, out]`?"""
    live = config.get("transposed_modules")
    if isinstance(live, list):
        named = {f"{module}.weight" for module in live}
        return named.__contains__
    if _is_turned_already(tensors) or not (_declares_conv1d(config) or _looks_like_gpt2(tensors)):
        return lambda _: False
    return lambda key: key.removesuffix(".weight").rpartition(".")[2] in CONV1D_MODULES


def is_known(config: Mapping[str, Any]) -> bool:
    """Return whether `transposed_keys` has the answer for every weight. Code from elsewhere (`auto_map`) may differ."""
    if "transposed_modules" in config:
        return True
    own = config.get("model_type")
    return "auto_map" not in config and isinstance(own, str) and (own in CONV1D_MODELS or own in LINEAR_MODELS)


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
