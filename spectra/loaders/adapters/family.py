"""The contract of an adapter family: how its tensors are named and what its update is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from spectra.loaders.adapters.config import AdapterConfig
from spectra.updates import Update


@dataclass(frozen=True, slots=True)
class Target:
    """One adapted module: its name, its parts as stored, and its base matrix on demand."""

    module: str
    parts: Mapping[str, torch.Tensor]
    base: Callable[[], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Family:
    """One parameterisation, as functions.

    check refuses by name what is not read; parse splits a tensor name into (module, part, adapter
    name); label names the method; rank gives the allotted rank and fits the `[out, in]` shape, both
    from the stored shapes; update builds dW.
    """

    method: str
    check: Callable[[AdapterConfig], None]
    parse: Callable[[str], tuple[str, str, str | None] | None]
    label: Callable[[AdapterConfig, Mapping[str, object]], str]
    rank: Callable[[Mapping[str, tuple[int, ...]]], int]
    fits: Callable[[Mapping[str, tuple[int, ...]]], tuple[int, int] | None]
    update: Callable[[Target, AdapterConfig], Update]
