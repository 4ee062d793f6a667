"""Updates of the row blocks of one weight."""

from dataclasses import dataclass

import torch

from spectra.errors import MatchError
from spectra.updates.update import Factors, Unfactored, Update


@dataclass(frozen=True, slots=True)
class Stacked(Unfactored):
    """Updates of the row blocks of one weight, from the first row down: the parts of a fused projection.

    A part without an update is a low-rank one of rank 0.
    """

    parts: tuple[Update, ...]
    kind = "stacked"

    def __post_init__(self) -> None:
        if len({part.shape[1] for part in self.parts}) != 1:
            raise MatchError(f"blocks of shapes {[list(part.shape) for part in self.parts]} do not stack")

    @property
    def shape(self) -> tuple[int, int]:
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    @property
    def factors(self) -> Factors | None:
        pairs = [part.factors for part in self.parts]
        known = [pair for pair in pairs if pair is not None]
        if len(known) < len(pairs) or sum(B.shape[1] for B, _ in known) >= min(self.shape):
            return None
        whole: torch.Tensor = torch.block_diag(*(B for B, _ in known))  # type: ignore[no-untyped-call]
        return whole, torch.cat([A for _, A in known])

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([part.matmul(x) for part in self.parts])

    def rmatmul(self, y: torch.Tensor) -> torch.Tensor:
        blocks = torch.split(y, [part.shape[0] for part in self.parts])
        first, *rest = (part.rmatmul(block) for part, block in zip(self.parts, blocks, strict=True))
        return sum(rest, start=first)

    def dense(self) -> torch.Tensor:
        return torch.cat([part.dense() for part in self.parts])
