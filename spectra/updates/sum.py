"""Several updates of one weight, added."""

from dataclasses import dataclass

import torch

from spectra.errors import MatchError
from spectra.updates.update import Factors, Update


@dataclass(frozen=True, slots=True)
class Sum:
    """Several updates of one weight, added."""

    parts: tuple[Update, ...]
    kind = "sum"

    def __post_init__(self) -> None:
        if len({part.shape for part in self.parts}) != 1:
            raise MatchError(f"updates of shapes {[list(part.shape) for part in self.parts]} cannot be added")

    @property
    def shape(self) -> tuple[int, int]:
        return self.parts[0].shape

    @property
    def factors(self) -> Factors | None:
        pairs = [part.factors for part in self.parts]
        known = [pair for pair in pairs if pair is not None]
        if len(known) < len(pairs) or sum(B.shape[1] for B, _ in known) >= min(self.shape):
            return None
        return torch.cat([B for B, _ in known], 1), torch.cat([A for _, A in known])

    def values(self) -> torch.Tensor | None:
        return None

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        first, *rest = (part.matmul(x) for part in self.parts)
        return sum(rest, start=first)

    def rmatmul(self, y: torch.Tensor) -> torch.Tensor:
        first, *rest = (part.rmatmul(y) for part in self.parts)
        return sum(rest, start=first)

    def dense(self) -> torch.Tensor:
        first, *rest = (part.dense() for part in self.parts)
        return sum(rest, start=first)
