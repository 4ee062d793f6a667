"""The base of a comparison: its matrices by name, each with its layout, one in memory at a time."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from spectra.errors import MatchError, UnsupportedError
from spectra.layout import Layout, layout_of
from spectra.loaders.header import FLOATS, TensorInfo
from spectra.loaders.matching import is_vocabulary
from spectra.loaders.orientation import transposed_keys
from spectra.loaders.quantization import scheme
from spectra.loaders.source import Model, TensorSource, open_source
from spectra.text import show
from spectra.updates import Dense, Storage, WeightPair

HEADS = ("classifier", "score", "qa_outputs", "pre_classifier", "logits_proj")


def storage_of(*infos: TensorInfo) -> Storage:
    """Return what these tensors take on disk together."""
    return Storage(infos[0].dtype, sum(info.parameters for info in infos), sum(info.bytes for info in infos))


def refuse_packed(source: TensorSource, what: str) -> None:
    """Refuse a checkpoint whose weights are packed: its bytes are not weights."""
    packed = scheme(source.header.tensors, source.config)
    if packed:
        raise UnsupportedError(
            f"the {what} '{show(source.label)}' is stored packed by {packed}, which this version does not unpack. "
            "Give the unquantised checkpoint it was made from."
        )


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
        """Whether orientation is known rather than read off shapes."""
        return "transposed_modules" in self.source.config or "model_type" in self.source.config

    def layout(self, key: str) -> Layout:
        return layout_of(self.tensors[key].shape, transposed=self.transposed(key))

    def matrix(self, key: str, layout: Layout | None = None, rows: int | None = None) -> torch.Tensor:
        """Return a weight as a float32 matrix `[m, n]`, rows = outputs, cut to its first `rows`."""
        stored = (layout or self.layout(key)).to_matrix(self.source.tensor(key))
        return stored[:rows].float()

    def reason_against(self, key: str) -> str | None:
        """Say why a tensor is not a matrix that can be analysed, None when it can."""
        info = self.tensors[key]
        if info.alias is not None:
            return f"tied: it shares its storage with '{show(info.alias)}'"
        if len(info.shape) < 2:
            return "a vector or scalar: it has no singular vectors"
        if info.dtype not in FLOATS:
            return f"stored as {info.dtype}: not a floating-point weight"
        return None


def open_base(model: Model) -> Base:
    """Open a base checkpoint, module or state dict. Packed weights are refused by name."""
    return Base(open_source(model))


def common_rows(key: str, base: tuple[int, int], tuned: tuple[int, int], what: str) -> tuple[int, str | None]:
    """Return the rows both sides have and a note when one side has more.

    Raises MatchError, with both shapes, when the difference is not a grown vocabulary.
    """
    if base == tuned:
        return base[0], None
    if base[1] == tuned[1] and is_vocabulary(key):
        rows = min(base[0], tuned[0])
        more = "the tuned side" if tuned[0] > base[0] else "the base"
        return rows, f"{abs(base[0] - tuned[0])} rows that only {more} has are left out (vocabulary)"
    hint = " Transposed they would fit: is the layout declared wrongly?" if base == tuned[::-1] else ""
    raise MatchError(
        f"'{show(key)}': the base is {list(base)} and {what} is {list(tuned)}.{hint} "
        "Is this the base it was trained on?"
    )


def replaced_pair(base: Base, key: str, tuned: TensorSource, tuned_key: str) -> WeightPair:
    """Return the pair of a weight stored in full on both sides: `dW = W - W0`, entry by entry.

    Both are upcast to float32 (float64 where either is stored so) before they are subtracted.
    """
    info, layout = tuned.header.tensors[tuned_key], base.layout(key)
    tuned_layout = layout_of(info.shape, transposed=layout.kind == "transposed")
    rows, note = common_rows(key, layout.shape, tuned_layout.shape, "the tuned weight")
    if rows != layout.shape[0]:
        layout = Layout(layout.kind, (rows, *layout.stored_shape[1:]))
    wide = torch.float64 if "float64" in (info.dtype, base.tensors[key].dtype) else torch.float32
    before = layout_of(base.tensors[key].shape, transposed=layout.kind == "transposed")
    W0 = before.to_matrix(base.source.tensor(key))[:rows].to(wide)
    W = tuned_layout.to_matrix(tuned.tensor(tuned_key))[:rows].to(wide)
    return WeightPair(
        key=key,
        base=W0.float(),
        update=Dense((W - W0).float()),
        layout=layout,
        base_storage=storage_of(base.tensors[key]),
        update_storage=storage_of(info),
        notes=(note,) if note else (),
    )
