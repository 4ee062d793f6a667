"""What may lie beside the tensors of an adapter: other adapters below, weights that were trained along."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spectra.errors import MatchError
from spectra.loaders.adapters.config import CONFIG_NAME
from spectra.loaders.files import exists
from spectra.loaders.header import Header
from spectra.loaders.source import TensorSource, open_source
from spectra.text import listing

TRAINED_ALONG = "trainable_params.bin"


@dataclass(slots=True)
class _Joined:
    """Two sources read as one."""

    label: str
    config: Mapping[str, Any]
    header: Header
    parts: tuple[TensorSource, TensorSource]

    def tensor(self, key: str) -> torch.Tensor:
        first, second = self.parts
        return first.tensor(key) if key in first.header.tensors else second.tensor(key)

    def close(self) -> None:
        for part in self.parts:
            part.close()


def with_trained_beside(adapter: TensorSource, folder: Path) -> TensorSource:
    """Add the embeddings and norms that LongLoRA (arXiv:2309.12307) trains in full and saves beside the factors."""
    path = folder / TRAINED_ALONG
    if not exists(path):
        return adapter
    trained = open_source(path)
    one, two = adapter.header, trained.header
    twice = sorted(one.tensors.keys() & two.tensors.keys())
    if twice:
        raise MatchError(f"{listing(twice, 3)}: in the adapter and in {TRAINED_ALONG} as well.")
    note = f"{TRAINED_ALONG} beside the adapter is read too"
    header = Header(
        one.container,
        (*one.files, *two.files),
        {**one.tensors, **two.tensors},
        one.metadata,
        (*one.notes, *two.notes, note),
    )
    return _Joined(adapter.label, adapter.config, header, (adapter, trained))


def adapters_below(folder: Path) -> list[str]:
    """Return the names of the subfolders that hold an adapter."""
    return sorted(entry.parent.name for entry in folder.glob(f"*/{CONFIG_NAME}")) if folder.is_dir() else []
