"""The base of a comparison: its matrices by name, each with its layout, one in memory at a time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from spectra.errors import MatchError, UnsupportedError
from spectra.layout import Layout, layout_of
from spectra.loaders.formats import ADAPTER_NAMES
from spectra.loaders.header import FLOATS, TensorInfo
from spectra.loaders.matching import input_embedding, is_head, is_vocabulary
from spectra.loaders.orientation import transposed_keys
from spectra.loaders.pickle_header import unwrap_key
from spectra.loaders.plan import Planned
from spectra.loaders.quantization import scheme
from spectra.loaders.source import Model, TensorSource, open_source
from spectra.text import show
from spectra.updates import Dense, Storage, WeightPair

HEADS = ("classifier", "score", "qa_outputs", "pre_classifier", "logits_proj")
_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")


def storage_of(*infos: TensorInfo) -> Storage:
    """Return what these tensors take on disk together."""
    return Storage(infos[0].dtype, sum(info.parameters for info in infos), sum(info.bytes for info in infos))


def refuse_packed(source: TensorSource, what: str) -> None:
    """Refuse a checkpoint whose weights are packed: its bytes are not weights."""
    packed = scheme(source.header.tensors, source.config) or _declared_scheme(source)
    if packed:
        raise UnsupportedError(
            f"the {what} '{show(source.label)}' is stored packed by {packed}, which this version does not unpack. "
            "Give the unquantised checkpoint it was made from."
        )


def _declared_scheme(source: TensorSource) -> str | None:
    """Name the quantisation a configuration declares when some matrices are indeed no floats."""
    declared = source.config.get("quantization_config")
    method = declared.get("quant_method") if isinstance(declared, Mapping) else None
    infos = source.header.tensors.values()
    packed = any(len(info.shape) >= 2 and info.dtype not in FLOATS for info in infos)
    return show(method) if method and packed else None


@dataclass(slots=True)
class Base:
    """The base's tensors with their orientation decided once."""

    source: TensorSource
    transposed: Callable[[str], bool] = field(init=False)

    def __post_init__(self) -> None:
        refuse_packed(self.source, "base")
        self.transposed = transposed_keys(self.source.config, self.tensors)

    @property
    def tensors(self) -> dict[str, TensorInfo]:
        return self.source.header.tensors

    @property
    def knows_architecture(self) -> bool:
        """Whether orientation is known rather than read off shapes. Code from elsewhere (`auto_map`) is not known."""
        config = self.source.config
        return "transposed_modules" in config or ("model_type" in config and "auto_map" not in config)

    def name(self, key: str) -> str:
        """Return the Hub's name of a weight, where its container has names of its own; else its key."""
        return key

    def layout(self, key: str) -> Layout:
        return layout_of(self.tensors[key].shape, transposed=self.transposed(key))

    def matrix(self, key: str, layout: Layout | None = None, rows: int | None = None) -> torch.Tensor:
        """Return a weight as a float32 matrix `[m, n]`, rows = outputs, cut to its first `rows`."""
        stored = (layout or self.layout(key)).to_matrix(self.source.tensor(key))
        return stored[:rows].float()

    def tied_to(self, module: str) -> str | None:
        """Return the input embedding whose weight a module shares when the base stores it only there."""
        head, coder = is_head(module), module.endswith(("encoder.embed_tokens", "decoder.embed_tokens"))
        embedding = input_embedding(self.tensors) if head or coder else None
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
        if info.dtype not in FLOATS:
            return f"stored as {info.dtype}: not a floating-point weight"
        if key.endswith("bias"):
            return f"a bias or a mask of shape {list(info.shape)}, not a weight"
        if _is_expert_stack(key, info.shape, self.source.config):
            return "a stack of experts in one tensor, which this version does not read"
        return None


def _ties_head(config: Mapping[str, Any]) -> bool:
    """Return whether the output head is the input embedding: as declared, and by default where a model is declared."""
    inner = config.get("text_config")
    for known in (config, inner if isinstance(inner, Mapping) else {}):
        if isinstance(known.get("tie_word_embeddings"), bool):
            return bool(known["tie_word_embeddings"])
    return "model_type" in config


def _is_expert_stack(key: str, shape: tuple[int, ...], config: Mapping[str, Any]) -> bool:
    counts = [config.get(name) for name in _EXPERT_COUNTS]
    return len(shape) == 3 and ("experts" in key.split(".") or shape[0] in counts)


def open_base(model: Model) -> Base:
    """Open a base checkpoint, module or state dict. Packed weights and adapters are refused by name."""
    source = open_source(weights_in(model))
    if any(record.name in ADAPTER_NAMES for record in source.header.files):
        raise MatchError(
            f"the base '{show(source.label)}' is an adapter. Give the base first, then what was trained on it."
        )
    return Base(source)


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
    raise MatchError(
        f"'{show(key)}': the base is {list(base)} and {what} is {list(tuned)}.{hint} "
        "Is this the base it was trained on?"
    )


def head_of_other_size(key: str, base: tuple[int, ...], tuned: tuple[int, ...]) -> str | None:
    """Say that a classification head was replaced by one of another size, None when it was not."""
    if base != tuned and any(part in HEADS for part in key.split(".")):
        return f"a head of another size: {list(base)} in the base, {list(tuned)} tuned"
    return None


def plan_replaced(base: Base, key: str, tuned: TensorSource, tuned_key: str) -> Planned:
    """Plan the pair of a weight stored in full on both sides: `dW = W - W0`, entry by entry.

    Raises MatchError at once when the shapes do not fit.
    """
    before, after = base.tensors[key], tuned.header.tensors[tuned_key]
    rows, note = common_rows(key, before.shape, after.shape, "the tuned weight")
    transposed = base.transposed(key)
    whole, other = layout_of(before.shape, transposed=transposed), layout_of(after.shape, transposed=transposed)
    wide = torch.float64 if "float64" in (before.dtype, after.dtype) else torch.float32

    def build() -> WeightPair:
        W0 = whole.to_matrix(base.source.tensor(key))[: rows if note else None].to(wide)
        W = other.to_matrix(tuned.tensor(tuned_key))[: rows if note else None].to(wide)
        return WeightPair(
            key=key,
            base=W0.float(),
            update=Dense((W - W0).float()),
            layout=whole.cut(rows) if note else whole,
            base_storage=storage_of(before),
            update_storage=storage_of(after),
            notes=(note,) if note else (),
        )

    return Planned(key, build)
