"""An update of few entries: SHiRA."""

from dataclasses import dataclass

import torch

from spectra.errors import MatchError
from spectra.updates.update import Unfactored


@dataclass(frozen=True, slots=True)
class Sparse(Unfactored):
    """An update of few entries (SHiRA, arXiv:2406.13175). rows, columns, values : [entries]; equal places add up."""

    rows: torch.Tensor
    columns: torch.Tensor
    entries: torch.Tensor
    shape: tuple[int, int]
    kind = "sparse"

    def __post_init__(self) -> None:
        m, n = self.shape
        for places, extent in ((self.rows, m), (self.columns, n)):
            if len(places) and not (int(places.min()) >= 0 and int(places.max()) < extent):
                raise MatchError(f"entries that lie outside of {list(self.shape)}")

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        out = x.new_zeros(self.shape[0], x.shape[1])
        return out.index_add(0, self.rows, self.entries[:, None] * x[self.columns])

    def rmatmul(self, y: torch.Tensor) -> torch.Tensor:
        out = y.new_zeros(self.shape[1], y.shape[1])
        return out.index_add(0, self.columns, self.entries[:, None] * y[self.rows])

    def dense(self) -> torch.Tensor:
        return self.entries.new_zeros(self.shape).index_put((self.rows, self.columns), self.entries, accumulate=True)
