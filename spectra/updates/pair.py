"""A base weight and its update, as the engine takes them."""

from dataclasses import dataclass, field

import torch

from spectra.errors import MatchError
from spectra.layout import Layout
from spectra.text import show
from spectra.updates.update import Update


@dataclass(frozen=True, slots=True)
class Storage:
    """What a weight or an update takes on disk: its dtype, number of parameters and bytes."""

    dtype: str
    parameters: int
    bytes: int


@dataclass(frozen=True, slots=True)
class WeightPair:
    """One base weight and its update, both `[m, n]` in float32 with rows = outputs.

    key : the base weight's name on disk; index : expert number or None; name : the Hub's name where
    it differs from the key. allotted : the rank the method may use, None where it is not bounded. scaling : what
    LoRA multiplies the product of this module's factors by, `alpha / r` or `alpha / sqrt(r)`; None for other methods,
    and where several modules share the weight.
    notes : what a reader must know (rows cut, orientation decided, a tied weight).
    """

    key: str
    base: torch.Tensor
    update: Update
    layout: Layout
    base_storage: Storage
    update_storage: Storage
    index: int | None = None
    name: str = ""
    allotted: int | None = None
    scaling: float | None = None
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if tuple(self.base.shape) != self.update.shape:
            raise MatchError(
                f"'{show(self.key)}': base {list(self.base.shape)} and update {list(self.update.shape)} differ"
            )
        if not self.name:
            object.__setattr__(self, "name", self.key)

    @property
    def shape(self) -> tuple[int, int]:
        return self.update.shape

    def tuned(self) -> torch.Tensor:
        """Return `W = W0 + dW` in float32, the merged weight with the method's true scaling."""
        return self.base + self.update.dense()

    def to_stored(self, matrix: torch.Tensor) -> torch.Tensor:
        """Return a matrix of this pair's shape in the state dict's own shape and layout."""
        return self.layout.to_stored(matrix)
