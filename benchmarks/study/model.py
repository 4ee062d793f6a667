"""The model of the study: a Llama of a few sizes, kept as transformers keeps it."""

from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BLOCKS = "model.layers."  # what LoRA can reach, so what every comparison is made over


@dataclass(frozen=True)
class Size:
    """One size of the model. vocabulary : tokens, 256 for plain bytes; context : tokens a window."""

    width: int
    layers: int
    heads: int
    inner: int
    vocabulary: int
    context: int


SIZES = {
    "study": Size(width=512, layers=8, heads=8, inner=1376, vocabulary=8192, context=512),
    "small": Size(width=160, layers=5, heads=5, inner=432, vocabulary=256, context=512),
    "tiny": Size(width=64, layers=2, heads=2, inner=176, vocabulary=512, context=64),
}


def new_model(size: Size, seed: int) -> transformers.LlamaForCausalLM:
    """A fresh Llama with tied embeddings, weights drawn from the seed."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=size.vocabulary,
        hidden_size=size.width,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.heads,
        intermediate_size=size.inner,
        max_position_embeddings=size.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
        use_cache=False,
    )
    return transformers.LlamaForCausalLM(config)


def load(folder: Path, device: torch.device) -> transformers.PreTrainedModel:
    """A stored model in float32."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).to(device)


def save(model: transformers.PreTrainedModel, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Store a model as transformers does, what is tied once. The copy in memory stays as it is."""
    weights = {key: value.detach().to(dtype) for key, value in model.named_parameters()}
    model.save_pretrained(folder, state_dict=weights)
    model.config.to_json_file(folder / "config.json")
