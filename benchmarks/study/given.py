"""A base made by others, in place of the one that the study trains: a model in GGUF, its weights unpacked."""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer


def unpack(path: Path, folder: Path) -> None:
    """Write the model of a GGUF file as a transformers folder, in float32: what its packed numbers stand for.

    transformers reads the file, with the package `gguf`.
    """
    packed = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    config = packed.config
    del config.quantization_config
    model = type(packed)(config)
    model.load_state_dict(packed.state_dict())
    model.save_pretrained(folder)


def tokenizer(path: Path) -> Tokenizer:
    """The vocabulary that a GGUF file carries. It must be byte-level BPE, as losses are told in bits per byte."""
    return transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).backend_tokenizer
