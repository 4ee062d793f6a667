"""Adapters that change no weight: the matrices they insert beside the weights, one at a time.

A prompt stands before the tokens, a prefix before the keys and values of every layer, a bottleneck behind a
sublayer with a nonlinearity inside. None of them has a dW; each is a matrix to be measured for what it is, beside
the base weight whose space its rows live in.
Sources: prompt tuning arXiv:2104.08691, prefix tuning 2101.00190, P-tuning 2103.10385, bottleneck adapters
1902.00751 and 2005.00247, LLaMA-Adapter 2303.16199.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from spectra.errors import MatchError, UnsupportedError
from spectra.loaders.adapters.adapter import opened
from spectra.loaders.adapters.config import CONFIG_NAME
from spectra.loaders.base import Base
from spectra.loaders.files import require_exists
from spectra.loaders.header import TensorInfo
from spectra.loaders.insertion_kinds import BOTTLENECK, HUB_PREFIX, LLAMA_ADAPTER, PROMPT, Form, kind_of
from spectra.loaders.links import opening
from spectra.loaders.matching import INPUT_EMBEDDINGS, plain
from spectra.loaders.source import TensorSource
from spectra.text import listing, show
from spectra.updates import Factors

_PROJECTIONS = {
    "keys": ("k_proj", "key", "k_lin", "k", "wk"),
    "values": ("v_proj", "value", "v_lin", "v", "wv"),
}
_ACROSS = ("EncDecAttention", "encoder_attn", "crossattention", "cross_attn")


@dataclass(frozen=True, slots=True)
class Beside:
    """The base weight whose space an insertion lives in: by its inputs (the rows' space) or its outputs."""

    key: str
    space: Literal["inputs", "outputs"]


@dataclass(frozen=True, slots=True)
class Insertion:
    """One inserted matrix, in float32.

    name : where it stands; kind : "prompt", "prefix keys", "prefix values", "down", "up" or "up down", the product
    of a bottleneck without its nonlinearity; matrix : [rows, dimensions], or None where only factors are known;
    beside : the base weight whose space its rows live in, None where there is no such.
    """

    name: str
    kind: str
    matrix: torch.Tensor | None
    factors: Factors | None = None
    beside: Beside | None = None

    @property
    def shape(self) -> tuple[int, int]:
        if self.factors is not None:
            return self.factors[0].shape[0], self.factors[1].shape[1]
        assert self.matrix is not None
        m, n = self.matrix.shape
        return m, n


@dataclass(frozen=True, slots=True)
class Inserted:
    """An adapter that inserts matrices: its method, its source, how to read them, what is left out and why."""

    method: str
    source: TensorSource
    read: Callable[[Base], Iterator[Insertion]]
    skipped: tuple[tuple[str, str], ...] = ()


def open_insertions(path: str | Path, *, follow_symlinks: bool = False) -> Inserted | None:
    """Open an adapter that inserts matrices beside the weights; None where there is nothing of the kind."""
    require_exists(path)
    path = Path(path)
    with opening(path, follow_symlinks=follow_symlinks):
        source, raw = opened(path)
    found = _of_names(source, raw)
    if found is None:
        source.close()
    return found


def _of_names(source: TensorSource, raw: Mapping[str, Any]) -> Inserted | None:
    names = source.header.tensors
    kind = kind_of(names, raw)
    if kind is None:
        return None
    key = PROMPT if PROMPT in names else next(iter(names))
    read: Mapping[Form, Callable[[Base], Iterator[Insertion]]] = {
        "prefix": lambda base: _peft_prefix(source, raw, base),
        "prompt": lambda base: _prompt(source, key, base),
        "layer prompts": lambda base: _layer_prompts(source, base),
        "bottlenecks": lambda base: _bottlenecks(source, base),
        "hub prefix": lambda base: _hub_prefix(source, base),
    }
    used: Mapping[Form, set[str]] = {
        "prompt": {key},
        "layer prompts": {name for name in names if LLAMA_ADAPTER.match(name)},
        "bottlenecks": {name for name in names if BOTTLENECK.match(name)},
    }
    return Inserted(kind.name, source, read[kind.form], _left(names, used.get(kind.form, set(names))))


def _left(names: Mapping[str, TensorInfo], used: set[str]) -> tuple[tuple[str, str], ...]:
    return tuple(
        (key, "a vector: a bias, a gate or a norm" if len(info.shape) < 2 else "of a part that is not measured")
        for key, info in names.items()
        if key not in used
    )


def _prompt(source: TensorSource, key: str, base: Base) -> Iterator[Insertion]:
    matrix = source.tensor(key).float()
    width = matrix.shape[1]
    embedding = _embedding(base, width)
    if embedding is None:
        raise MatchError(
            f"the prompt of '{show(source.label)}' has vectors of {width} numbers, and no embedding of "
            f"'{show(base.source.label)}' has. "
            "Is this the base it was trained on?"
        )
    yield Insertion(key or "prompt", "prompt", matrix, beside=Beside(embedding, "inputs"))


def _embedding(base: Base, width: int) -> str | None:
    named = [key for key in base.tensors if key.removesuffix(".weight").rpartition(".")[2] in INPUT_EMBEDDINGS]
    return next((key for key in named if base.tensors[key].shape[-1] == width), None)


def _layer_prompts(source: TensorSource, base: Base) -> Iterator[Insertion]:
    for key in source.header.tensors:
        match = LLAMA_ADAPTER.match(key)
        if match is not None:
            matrix = source.tensor(key).float()
            flat = matrix.reshape(-1, matrix.shape[-1])
            beside = _projection(base, match["place"], "keys", None)
            fits = beside is not None and base.layout(beside.key).shape[1] == flat.shape[1]
            yield Insertion(
                match["place"], "prompt", flat, beside=Beside(beside.key, "inputs") if beside and fits else None
            )


def _peft_prefix(source: TensorSource, raw: Mapping[str, Any], base: Base) -> Iterator[Insertion]:
    """Split `[tokens, layers x (keys, values) x width]`: the layer varies slowest, keys come before values."""
    whole = source.tensor(PROMPT).float()
    layers = raw.get("num_layers")
    if not isinstance(layers, int) or isinstance(layers, bool) or layers < 1 or whole.shape[1] % (2 * layers):
        raise UnsupportedError(
            f"{PROMPT} has {whole.shape[1]} numbers a token, which are not keys and values of num_layers = "
            f"{show(repr(layers), 20)}: {CONFIG_NAME} does not fit the file."
        )
    yield from _by_layer(whole, layers, base, "")


def _hub_prefix(source: TensorSource, base: Base) -> Iterator[Insertion]:
    """Rebuild what AdapterHub's prefix network gives: `control(tanh(control(wte)))`; every layer saves the same."""
    seen: list[torch.Tensor] = []
    for key in source.header.tensors:
        match = HUB_PREFIX.match(key)
        if match is None:
            continue
        front = key.removesuffix("wte.weight")
        tokens = source.tensor(key).float()
        if any(tokens.shape == other.shape and torch.equal(tokens, other) for other in seen):
            continue
        seen.append(tokens)
        inner = {
            name.removeprefix(front): source.tensor(name).float()
            for name in source.header.tensors
            if name.startswith(front)
        }
        try:
            hidden = tokens @ inner["control_trans.0.weight"].T + inner["control_trans.0.bias"]
            whole = torch.tanh(hidden) @ inner["control_trans.2.weight"].T + inner["control_trans.2.bias"]
        except KeyError as missing:
            raise MatchError(f"'{show(key)}': its {show(missing)} is missing. Save the adapter again.") from None
        layers, rest = divmod(whole.shape[1], 2 * tokens.shape[1])
        if rest or not layers:
            raise MatchError(f"'{show(key)}' gives {whole.shape[1]} numbers a token, not keys and values of layers.")
        yield from _by_layer(whole, layers, base, match["rest"] + ".")


def _by_layer(whole: torch.Tensor, layers: int, base: Base, front: str) -> Iterator[Insertion]:
    parts = whole.chunk(2 * layers, 1)
    for number, part in enumerate(parts):
        what = ("keys", "values")[number % 2]
        beside = _projection(base, f"layer {number // 2}", what, number // 2)
        fits = beside is not None and base.layout(beside.key).shape[0] == part.shape[1]
        yield Insertion(
            f"{front}layer {number // 2}", f"prefix {what}", part.contiguous(), beside=beside if fits else None
        )


def _projection(base: Base, place: str, what: str, layer: int | None) -> Beside | None:
    """Return the projection of the base that makes the keys or values of a layer, None where several may be meant.

    A layer's number is the first in a name (T5 numbers the parts of its blocks too); of an encoder and a decoder the
    decoder has the prefix, in the attention to itself.
    """
    names = {key: plain(base.name(key)).removesuffix(".weight").split(".") for key in base.tensors}
    coder = any("decoder" in path for path in names.values())
    found = []
    for key, path in names.items():
        number = next((step for step in path if step.isdigit()), None)
        here = ".".join(path).startswith(place + ".") if layer is None else number == str(layer)
        elsewhere = (coder and "decoder" not in path) or any(step in _ACROSS for step in path)
        if here and not elsewhere and path[-1] in _PROJECTIONS[what] and len(base.tensors[key].shape) == 2:
            found.append(Beside(key, "outputs"))
    return found[0] if len(found) == 1 else None


def _bottlenecks(source: TensorSource, base: Base) -> Iterator[Insertion]:
    del base  # they stand behind a sublayer, in no space of one weight
    places: dict[str, dict[str, str]] = {}
    for key in source.header.tensors:
        match = BOTTLENECK.match(key)
        if match is not None:
            places.setdefault(match["place"], {})[match["part"].partition("_")[2].partition(".")[0]] = key
    for place, parts in places.items():
        if len(parts) < 2:
            raise MatchError(f"'{show(place)}': one half of its bottleneck is missing ({listing(parts)} is there).")
        down, up = (source.tensor(parts[part]).float() for part in ("down", "up"))
        if down.ndim != 2 or up.ndim != 2 or up.shape[1] != down.shape[0]:
            raise MatchError(f"'{show(place)}': up {list(up.shape)} and down {list(down.shape)} have no product.")
        yield Insertion(place, "down", down)
        yield Insertion(place, "up", up)
        yield Insertion(place, "up down", None, factors=(up, down))
