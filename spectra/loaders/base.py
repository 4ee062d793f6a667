"""The base of a comparison: its matrices by name, each with its layout, one in memory at a time."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from spectra.errors import MatchError
from spectra.layout import Layout, layout_of
from spectra.loaders.disagreements import QUESTION
from spectra.loaders.experts import Stack, require_stack, stack_of
from spectra.loaders.formats import ADAPTER_NAMES
from spectra.loaders.gguf_header import file_type, quantised
from spectra.loaders.gguf_names import Naming, naming_of
from spectra.loaders.header import FLOATS, TensorInfo
from spectra.loaders.links import opening
from spectra.loaders.matching import input_embedding, is_head, is_vocabulary, plain
from spectra.loaders.orientation import is_known, transposed_keys
from spectra.loaders.pickle_header import unwrap_key
from spectra.loaders.plan import Planned
from spectra.loaders.quantization.unpack import Dequantised, unpacked
from spectra.loaders.source import Model, TensorSource, open_source, part_of
from spectra.text import listing, show
from spectra.updates import Dense, Storage, WeightPair

_BLOCKS = ("num_hidden_layers", "n_layer", "num_layers")
HEADS = ("classifier", "score", "qa_outputs", "pre_classifier", "logits_proj")


def share_of(info: TensorInfo, count: int) -> Storage:
    """Return what one of `count` equal parts of a tensor takes on disk."""
    return Storage(info.dtype, info.parameters // count, info.bytes // count)


@dataclass(slots=True)
class Base:
    """The base's tensors with their orientation decided once."""

    source: TensorSource
    transposed: Callable[[str], bool] = field(init=False)
    naming: Naming = field(init=False)
    _last: tuple[tuple[str, Layout | None, int | None], torch.Tensor] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.transposed = transposed_keys(self.source.config, self.tensors)
        self.naming = naming_of(self.source.header)

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        return self.source.header.tensors

    @property
    def knows_architecture(self) -> bool:
        """Whether orientation is known rather than read off shapes or taken from an adapter's flag."""
        return is_known(self.source.config) or bool(self.naming.architecture)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know of the base: what looked odd, and what it is where it is not as it was trained."""
        header = self.source.header
        packed = (f"the base is dequantised from {file_type(header)}",) if quantised(header) else ()
        return (*header.notes, *packed)

    @property
    def packed(self) -> str | None:
        """What the base is quantised with, as people call it (`GPTQ`, `Q4_K_M`), None where it is not."""
        header = self.source.header
        if quantised(header):
            return file_type(header)
        schemes = dict.fromkeys(info.scheme for info in self.tensors.values() if isinstance(info, Dequantised))
        return listing(schemes) or None

    @property
    def blocks(self) -> int | None:
        """How many blocks the model's own code builds, None where the configuration does not say.

        A checkpoint may hold more: the next-token heads of DeepSeek lie behind the last block, as blocks of their own.
        """
        inner = self.source.config.get("text_config")
        known = (self.source.config, inner if isinstance(inner, Mapping) else {})
        return next((config[name] for config in known for name in _BLOCKS if type(config.get(name)) is int), None)

    @property
    def is_live(self) -> bool:
        """Whether this is a model in memory, whose weights come in the order of its own code."""
        return self.source.header.container == "memory" and "transposed_modules" in self.source.config

    def name(self, key: str, index: int | None = None) -> str:
        """Return the Hub's name of a weight, where its container has names of its own; else its key.

        index : the expert's number in a stack, where the Hub has a weight an expert; without it a `#` stands there.
        """
        name = self.naming.name(key)
        return name if index is None else name.replace("#", str(index))

    def expert(self, key: str, module: str) -> int | None:
        """Return which expert of a stack a module of the Hub's is, None where its name does not tell."""
        front, mark, back = plain(self.name(key)).removesuffix(".weight").partition("#")
        number = module[len(front) : len(module) - len(back)]
        return int(number) if mark and module == front + number + back and number.isdecimal() else None

    def stack(self, key: str) -> Stack | None:
        """Return the stack of experts that a tensor is, None for any other."""
        shape = self.tensors[key].shape
        if self.naming.architecture:
            stacked = len(shape) == 3 and self.naming.is_stack(key)
            if stacked:
                require_stack(key, shape)
            return Stack(shape[0], Layout("linear", shape[1:]), None) if stacked else None
        return stack_of(key, self.tensors, self.source.config)

    def indices(self, key: str) -> Sequence[int | None]:
        """Return the numbers of the experts that a tensor holds; None alone for a tensor that is one matrix."""
        stack = self.stack(key)
        return range(stack.count) if stack else (None,)

    def layout(self, key: str) -> Layout:
        """Return the layout of a weight, in a stack that of one expert."""
        stack = self.stack(key)
        return stack.layout if stack else self.layout_in(self.source, key, key)

    def layout_in(self, source: TensorSource, key: str, stored: str) -> Layout:
        """Return how the weight `key`, no stack, lies as `stored` in a source: this base's own, or a tuned one."""
        naming, info = naming_of(source.header), source.header.tensors[stored]
        if naming.architecture:
            return naming.layout(stored, info.shape)
        turned = self.transposed(key) or self.naming.is_turned(key)
        return layout_of(info.shape, transposed=turned and not isinstance(info, Dequantised))

    def matrix(
        self, key: str, layout: Layout | None = None, rows: int | None = None, index: int | None = None
    ) -> torch.Tensor:
        """Return a weight as a float32 matrix `[m, n]`, rows = outputs, cut to its first `rows`.

        index : the expert's number in a stack. The last whole matrix is kept: models that share this base share it.
        """
        asked = key, layout, index
        if rows is None and self._last is not None and self._last[0] == asked:
            return self._last[1]
        self._last = None  # let go of it before the next one is read
        found = self._read(key, layout, rows, index)
        self._last = (asked, found) if rows is None else None
        return found

    def _read(self, key: str, layout: Layout | None, rows: int | None, index: int | None) -> torch.Tensor:
        stored = (layout or self.layout(key)).to_matrix(part_of(self.source, key, index))
        return stored[:rows].float()

    def storage(self, key: str) -> Storage:
        """Return what a weight takes on disk, in a stack what one expert takes."""
        return share_of(self.tensors[key], len(self.indices(key)))

    def tied_to(self, module: str) -> str | None:
        """Return the input embedding whose weight a module shares when the base stores it only there."""
        head, coder = is_head(module), module.endswith(("encoder.embed_tokens", "decoder.embed_tokens"))
        keys = {self.name(key): key for key in self.tensors} if head or coder else {}
        embedding = keys.get(input_embedding(keys) or "")
        if embedding is None:
            return None
        if head:
            return embedding if _ties_head(self.source.config) else None
        return embedding if embedding.endswith("shared.weight") else None

    def reason_against(self, key: str) -> str | None:
        """Say why a tensor is not a matrix that can be analysed, None when it can."""
        alias = self.tensors[key].alias
        return f"tied: it shares its storage with '{show(alias)}'" if alias is not None else self.unfit(key)

    def unfit(self, key: str) -> str | None:
        """Say why a tensor, shared or not, is no matrix of weights, None when it is one."""
        info = self.tensors[key]
        if len(info.shape) < 2:
            return "a vector or scalar: it has no singular vectors"
        if info.read_as not in FLOATS:
            return f"stored as {info.dtype}: not a floating-point weight"
        if key.endswith("bias"):
            return f"a bias or a mask of shape {list(info.shape)}, not a weight"
        return None


def _ties_head(config: Mapping[str, Any]) -> bool:
    """Return whether the output head is the input embedding: as declared, and by default where a model is declared."""
    inner = config.get("text_config")
    for known in (config, inner if isinstance(inner, Mapping) else {}):
        if isinstance(known.get("tie_word_embeddings"), bool):
            return bool(known["tie_word_embeddings"])
    return "model_type" in config


def open_base(model: Model, *, follow_symlinks: bool = False) -> Base:
    """Open a base checkpoint, module or state dict, packed weights unpacked. Adapters are refused by name."""
    with opening(model, follow_symlinks=follow_symlinks):
        source = open_source(weights_in(model))
    named = any(record.name in ADAPTER_NAMES for record in source.header.files)
    if named or source.header.metadata.get("general.type") == "adapter":
        raise MatchError(
            f"the base '{show(source.label)}' is an adapter. Give the base first, then what was trained on it."
        )
    return Base(unpacked(source, "base"))


def weights_in(model: Model) -> Model:
    """Return the state dict inside a training checkpoint that was loaded into memory, else the model itself."""
    if not isinstance(model, Mapping) or any(isinstance(value, torch.Tensor) for value in model.values()):
        return model
    wrapper = unwrap_key(list(model))
    inner = model[wrapper] if wrapper else None
    return inner if isinstance(inner, Mapping) else model


def common_rows(key: str, base: tuple[int, ...], tuned: tuple[int, ...], what: str) -> tuple[int, str | None]:
    """Return the rows both sides have and a note when one side has more.

    Raises MatchError, with both shapes, when the difference is not a grown vocabulary.
    """
    if base == tuned:
        return base[0], None
    if base[1:] == tuned[1:] and is_vocabulary(key):
        rows = min(base[0], tuned[0])
        more = "the tuned side" if tuned[0] > base[0] else "the base"
        return rows, f"{abs(base[0] - tuned[0])} rows that only {more} has are left out (vocabulary)"
    hint = " Transposed they would fit: is the layout declared wrongly?" if base == tuned[::-1] else ""
    raise MatchError(f"'{show(key)}': the base is {list(base)} and {what} is {list(tuned)}.{hint} {QUESTION}")


def head_of_other_size(key: str, base: tuple[int, ...], tuned: tuple[int, ...]) -> str | None:
    """Say that a classification head was replaced by one of another size, None when it was not."""
    if base != tuned and any(part in HEADS for part in key.split(".")):
        return f"a head of another size: {list(base)} in the base, {list(tuned)} tuned"
    return None


def _rounded(before: TensorInfo, after: TensorInfo) -> str | None:
    """Say that what quantisation took away is part of the difference, None when neither side is quantised."""
    types = dict.fromkeys(info.dtype for info in (before, after) if info.dtype != info.read_as)
    return f"dequantised from {listing(types)}: dW holds the error of quantisation too" if types else None


def plan_replaced(base: Base, key: str, tuned: TensorSource, tuned_key: str) -> list[Planned]:
    """Plan the pairs of a weight stored in full on both sides, one a matrix: `dW = W - W0`, entry by entry.

    Raises MatchError at once when the shapes do not fit.
    """
    before, after, stack = base.tensors[key], tuned.header.tensors[tuned_key], base.stack(key)
    whole = base.layout(key)
    other = whole if stack else base.layout_in(tuned, key, tuned_key)
    turned = whole.kind != other.kind and len(before.shape) == len(after.shape)  # one matrix, stored in two layouts
    shapes = (whole.shape, other.shape) if turned else (before.shape, after.shape)
    rows, note = common_rows(base.name(key), *shapes, "the tuned weight")
    cut = rows if note else None
    notes = tuple(said for said in (note, stack and stack.note, _rounded(before, after)) if said)
    wide = torch.float64 if "float64" in (before.dtype, after.dtype) else torch.float32
    indices = base.indices(key)

    def build(index: int | None) -> WeightPair:
        W0 = whole.to_matrix(part_of(base.source, key, index))[:cut].to(wide)
        W = other.to_matrix(part_of(tuned, tuned_key, index))[:cut].to(wide)
        return WeightPair(
            key=key,
            base=W0.float(),
            update=Dense((W - W0).float()),
            layout=whole.cut(rows) if note else whole,
            base_storage=base.storage(key),
            update_storage=share_of(after, len(indices)),
            index=index,
            name=base.name(key, index),
            notes=notes,
        )

    return [Planned(key, partial(build, index), index) for index in indices]
