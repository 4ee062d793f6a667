"""The contract of an adapter family: how its tensors are named and what its update is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from spectra.loaders.adapters.config import AdapterConfig
from spectra.updates import Update

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Target:
    """One adapted module: its name in the configuration, its parts as stored, and its base matrix on demand."""

    module: str
    parts: Mapping[str, torch.Tensor]
    base: Callable[[], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Family:
    """One parameterisation, as functions.

    check refuses by name what is not read; parse splits a tensor name into (module, part, adapter
    name); is_state knows the names of training state; notes says what a reader must know; label names
    the method; rank gives the allotted rank and fits the `[out, in]` shape of a module, both from the
    stored shapes; needs_base says whether its update depends on the base weight; update builds dW.
    """

    method: str
    check: Callable[[AdapterConfig], None]
    parse: Callable[[str], tuple[str, str, str | None] | None]
    is_state: Callable[[str], bool]
    notes: Callable[[AdapterConfig], tuple[str, ...]]
    label: Callable[[AdapterConfig, Shapes], str]
    rank: Callable[[Shapes], int]
    fits: Callable[[str, Shapes, AdapterConfig], tuple[int, int]]
    needs_base: Callable[[Shapes], bool]
    update: Callable[[Target, AdapterConfig], Update]
