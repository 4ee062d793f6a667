"""A base grown by PEFT's `layer_replication`: its layers in a new order, some of them several times.

`[[0, 4], [2, 5]]` makes layers 0, 1, 2, 3, 2, 3, 4. Copies share their weights with the layer they are of, and each has
an update of its own, so that the grown model is read as a base in which every layer is there by its new number.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from spectra.errors import FormatError, MatchError, UnsupportedError
from spectra.loaders.adapters.config import CONFIG_NAME
from spectra.loaders.base import Base
from spectra.loaders.header import Header, TensorInfo
from spectra.loaders.source import TensorSource, part_of
from spectra.text import count, listing, show

# Where PEFT looks for the list of layers, first match first.
_LISTS = ("layers", "encoder.layer", "h")
_MOST = 10_000


@dataclass(slots=True)
class _Grown:
    """A source under the names of the grown model. origin : the stored tensor, by the name it has here."""

    label: str
    config: Mapping[str, Any]
    header: Header
    origin: Mapping[str, str]
    inner: TensorSource

    def tensor(self, key: str) -> torch.Tensor:
        return self.inner.tensor(self.origin[key])

    def part(self, key: str, index: int) -> torch.Tensor:
        return part_of(self.inner, self.origin[key], index)

    def close(self) -> None:
        self.inner.close()


def grown(base: Base, ranges: Any) -> Base:
    """Return a base whose layers are those of the given ranges, one after the other.

    Raises FormatError for what are no ranges, MatchError for layers that the base has not, UnsupportedError where its
    layers are not found.
    """
    front = _layers_of(base)
    own = re.compile(rf"{re.escape(front)}\.(\d+)\.(.+)")
    layers: dict[int, dict[str, str]] = {}
    for key in base.tensors:
        if match := own.fullmatch(key):
            layers.setdefault(int(match[1]), {})[match[2]] = key
    numbers = _numbers(ranges, 1 + max(layers))
    inside = {f"{front}.{new}.{rest}": key for new, old in enumerate(numbers) for rest, key in layers[old].items()}
    origin: dict[str, str] = {}
    for key in base.tensors:  # in the order of the base, all layers where its first one was
        origin |= {key: key} if own.fullmatch(key) is None else inside
    source, header = base.source, base.source.header
    first = {key: new for new, key in reversed(origin.items())}
    tensors = {new: _renamed(header.tensors[key], first) for new, key in origin.items()}
    note = (
        f"layer_replication: names are those of the grown model, whose {count(len(numbers), 'layer')} are the base's "
        f"layers {listing(numbers, 100)}"
    )
    config = {**source.config, "num_hidden_layers": len(numbers)} if source.config else {}
    whole = replace(header, tensors=tensors, notes=(*header.notes, note))
    return Base(_Grown(source.label, config, whole, origin, source))


def layers_of(base: Base) -> Mapping[str, str]:
    """Return the stored name of every tensor of a grown base, nothing for a base as it is."""
    return base.source.origin if isinstance(base.source, _Grown) else {}


def _renamed(info: TensorInfo, first: Mapping[str, str]) -> TensorInfo:
    """Return a tensor's declaration; what it shares its storage with goes by its first name in the grown model."""
    return info if info.alias is None else replace(info, alias=first.get(info.alias))


def _layers_of(base: Base) -> str:
    for last in _LISTS:
        found = {
            match[1] for key in base.tensors if (match := re.match(rf"^((?:[^.\d]+\.)*?{re.escape(last)})\.\d+\.", key))
        }
        if len(found) == 1:
            return found.pop()
        if found:
            raise UnsupportedError(
                f"layer_replication of '{show(base.source.label)}', which has several lists of layers "
                f"({listing(sorted(found), 3)}), is not read."
            )
    raise UnsupportedError(f"layer_replication: the layers of the base '{show(base.source.label)}' are not found.")


def _numbers(ranges: Any, layers: int) -> list[int]:
    numbers: list[int] = []
    for pair in ranges if isinstance(ranges, list) else [None]:
        if not isinstance(pair, list) or len(pair) != 2 or not all(type(end) is int and end >= 0 for end in pair):
            raise FormatError(f"{CONFIG_NAME}: layer_replication is {show(repr(ranges), 40)}, no list of ranges.")
        begin, end = pair
        if end > layers or len(numbers) + end - begin > _MOST:
            raise MatchError(
                f"{CONFIG_NAME}: layer_replication {show(repr(ranges), 40)} is not of the {layers} layers of the base. "
                "Is this the base it was trained on?"
            )
        numbers += range(begin, end)
    return numbers
