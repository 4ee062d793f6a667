"""The first stage: texts to tokens, kept so that no later stage needs the texts themselves."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from tokenizers import Tokenizer

from benchmarks.study import vocabulary
from benchmarks.study.texts import Text
from benchmarks.study.training import HeldOut, held_out

VOCABULARY, INDEX = "vocabulary.json", "texts.json"


def mixed(general: Text, tasks: Sequence[Text]) -> bytes:
    """What a vocabulary is learnt on: `general`, and a tenth as much of each task, so that none is spelt in bytes."""
    return b"\n".join([general.train, *(text.train[: len(general.train) // 10] for text in tasks)])


def prepare(folder: Path, general: Text, tasks: Sequence[Text], tokenizer: Tokenizer) -> None:
    """Write the vocabulary, each text's tokens and the index of them into a folder. The base learns `general`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / VOCABULARY))
    lengths = vocabulary.token_bytes(tokenizer)
    index: dict[str, Any] = {"general": general.name, "tasks": [text.name for text in tasks], "texts": {}}
    for text in (general, *tasks):
        parts = {part: vocabulary.encode(tokenizer, getattr(text, part)) for part in ("train", "held_out")}
        numpy.savez_compressed(folder / f"{text.name}.npz", **parts)
        index["texts"][text.name] = {
            "source": text.source,
            "licence": text.licence,
            **{part: _described(getattr(text, part), found, lengths) for part, found in parts.items()},
        }
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n")


def _described(content: bytes, tokens: numpy.ndarray, lengths: numpy.ndarray) -> dict[str, Any]:
    return {
        "bytes": len(content),
        "tokens": len(tokens),
        "bytes_a_token": round(float(lengths[tokens].mean()), 4) if len(tokens) else None,
        "sha256": hashlib.sha256(content).hexdigest(),
    }


class Texts:
    """The prepared texts, as tensors on a device.

    general : name of the text that the base was trained on; tasks : names of those it is fine-tuned on.
    """

    def __init__(self, folder: Path, device: torch.device, context: int, windows: int) -> None:
        index = json.loads((folder / INDEX).read_text())
        self.general: str = index["general"]
        self.tasks: list[str] = index["tasks"]
        lengths = torch.from_numpy(vocabulary.token_bytes(vocabulary.load(folder / VOCABULARY))).to(device)
        self.held_out: dict[str, HeldOut] = {}
        self._folder, self._device = folder, device
        for name in (self.general, *self.tasks):
            self.held_out[name] = held_out(self._tokens(name, "held_out"), lengths, context, windows)

    def train(self, name: str) -> torch.Tensor:
        """The training tokens of one text."""
        return self._tokens(name, "train")

    def _tokens(self, name: str, part: str) -> torch.Tensor:
        with numpy.load(self._folder / f"{name}.npz") as parts:
            return torch.from_numpy(parts[part].astype(numpy.int32)).to(self._device)
