"""A checkpoint of packed weights as one of plain weights, each dequantised when its turn comes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from spectra.errors import UnsupportedError
from spectra.loaders.header import Header, TensorInfo
from spectra.loaders.quantization.declared import UNQUANTISED, refusal
from spectra.loaders.quantization.packing import Packed, Parts, Weight
from spectra.loaders.quantization.schemes import SCHEMES
from spectra.loaders.quantization.signs import declaration, packings, unread
from spectra.loaders.source import TensorSource, part_of
from spectra.text import listing, show


@dataclass(frozen=True, slots=True)
class Dequantised(TensorInfo):
    """A weight that is stored packed. dtype : of its entries as stored; stored : bytes of all of its tensors; scheme :
    what packed it.

    It lies `[out, in]` whatever the architecture: what quantises a Conv1D makes a linear layer of it.
    """

    stored: int = 0
    scheme: str = ""

    @property
    def bytes(self) -> int:
        return self.stored

    @property
    def read_as(self) -> str:
        return "float32"


@dataclass(slots=True)
class UnpackedSource:
    """The tensors of a checkpoint by the names they have unpacked; what only packs them is hidden."""

    label: str
    config: Mapping[str, Any]
    header: Header
    _packed: TensorSource
    _weights: Mapping[str, tuple[Packed, Weight]]
    _stack: tuple[str, torch.Tensor] | None = None

    def tensor(self, key: str) -> torch.Tensor:
        if key not in self._weights:
            return self._packed.tensor(key)
        packed, weight = self._weights[key]
        return _value(weight, packed.tensor, weight.shape)

    def part(self, key: str, index: int) -> torch.Tensor:
        if key not in self._weights:
            return part_of(self._packed, key, index)
        packed, weight = self._weights[key]
        if weight.stacked:
            return _value(weight, partial(packed.part, index=index), weight.shape[1:])
        # Its codes run on from expert to expert: the stack is dequantised once, and kept while its experts are read.
        if self._stack is None or self._stack[0] != key:
            self._stack = None
            self._stack = key, self.tensor(key)
        return self._stack[1][index]

    def close(self) -> None:
        self._stack = None
        self._packed.close()


def _value(weight: Weight, parts: Parts, shape: tuple[int, ...]) -> torch.Tensor:
    found = weight.value(parts)
    assert tuple(found.shape) == shape
    assert found.dtype == torch.float32
    return found


def unpacked(source: TensorSource, what: str) -> TensorSource:
    """Return a source of the weights as they are used; the source itself when nothing in it is packed.

    Everything is checked from headers and small tensors; no weight is read yet. what : "base" or "tuned checkpoint",
    for the sentences.

    Raises
    ------
    FormatError
        The tensors of a packed weight are not whole or disagree.
    UnsupportedError
        A scheme, or something in one, is not read: the message names it.
    """
    tensors = source.header.tensors
    foreign = unread(tensors, source.config)
    if foreign is not None:
        raise UnsupportedError(
            f"the {what} '{show(source.label)}' is stored packed by {foreign}, which this version does not unpack. "
            f"{UNQUANTISED}"
        )
    declared = declaration(source.config)
    weights = {}
    for packing in packings(tensors, source.config):
        packed = Packed(packing, source, declared)
        against = refusal(packing.scheme, declared)
        if against is not None:
            raise packed.unread(*against)
        weights[packing.key] = packed, SCHEMES[packing.scheme](packed)
    if not weights:
        return source
    header = replace(
        source.header, tensors=_logical(tensors, weights), notes=(*source.header.notes, *_notes(weights, what))
    )
    return UnpackedSource(source.label, source.config, header, source, weights)


def _logical(tensors: Mapping[str, TensorInfo], weights: Mapping[str, tuple[Packed, Weight]]) -> dict[str, TensorInfo]:
    """Return the tensors under the names they have unpacked, each weight where the first of its parts lies."""
    home = {name: key for key, (packed, _) in weights.items() for name in packed.packing.parts.values()}
    found: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        key = home.get(name)
        if key is None:
            found[name] = info
        elif key not in found:
            packed, weight = weights[key]
            own = [tensors[part] for part in packed.packing.parts.values()]
            stored = sum(part.bytes for part in own)
            alias, scheme = _alias(own, home, key), packed.packing.scheme
            found[key] = Dequantised(weight.dtype, weight.shape, own[0].file, alias, stored=stored, scheme=scheme)
    return found


def _alias(own: Iterable[TensorInfo], home: Mapping[str, str], key: str) -> str | None:
    """Return the weight whose packed tensors are all this one's too: one storage under two names."""
    others = {home.get(info.alias) if info.alias is not None else None for info in own}
    other = others.pop() if len(others) == 1 else None
    return other if other != key else None


def _notes(weights: Mapping[str, tuple[Packed, Weight]], what: str) -> list[str]:
    schemes = listing(dict.fromkeys(packed.packing.scheme for packed, _ in weights.values()))
    measured = ": dW is measured against the dequantised weights" if what == "base" else ""
    doubts = dict.fromkeys(weight.note for _, weight in weights.values() if weight.note)
    return [f"the {what} is dequantised from {schemes}{measured}", *doubts]
