"""Experts stored one by one on the tuned side, read as the stack that the base has of them.

The Hub's files of Mixtral and Qwen hold a weight an expert; GGUF holds all experts of a layer in one tensor.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from spectra.errors import MatchError
from spectra.loaders.header import Header
from spectra.loaders.source import TensorSource
from spectra.text import show


@dataclass(slots=True)
class Restacked:
    """One tensor of shape `[experts, out, in]`, whose slices are tensors of another source."""

    label: str
    config: Mapping[str, Any]
    header: Header
    source: TensorSource
    experts: tuple[str, ...]

    def tensor(self, key: str) -> torch.Tensor:
        return torch.stack([self.part(key, index) for index in range(len(self.experts))])

    def part(self, key: str, index: int) -> torch.Tensor:
        assert key in self.header.tensors
        return self.source.tensor(self.experts[index])

    def close(self) -> None:
        self.source.close()


def restacked(source: TensorSource, key: str, experts: tuple[str, ...]) -> Restacked:
    """Return the experts of a layer as the tensor `key`. Raises MatchError where they are not of one shape."""
    infos = [source.header.tensors[name] for name in experts]
    odd = next((name for name, info in zip(experts, infos, strict=True) if info.shape != infos[0].shape), None)
    if odd is not None:
        raise MatchError(f"'{show(odd)}' is {list(source.header.tensors[odd].shape)}, unlike the experts beside it.")
    whole = replace(infos[0], shape=(len(experts), *infos[0].shape))
    return Restacked(source.label, source.config, replace(source.header, tensors={key: whole}), source, experts)
