"""Change of magnitude and of direction of a weight's rows, as DoRA reads fine-tuning: arXiv:2402.09353, sec. 4.1."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from spectra.metrics.blocks import Block, over_rows
from spectra.updates import Update


@dataclass(frozen=True, slots=True)
class Magnitude:
    """Means over the m rows (outputs) of W: the vectors whose length DoRA trains, as PEFT and the authors' code do.

    dM : `mean_i | ||w_i|| - ||w0_i|| |`. dD : `mean_i (1 - cos(w_i, w0_i))`. relative : dM over the mean `||w0_i||`.
    largest : the largest `| ||w_i|| / ||w0_i|| - 1 |`. Rows that are zero before or after are left out; skipped :
    how many.
    """

    dM: float  # noqa: N815  (the names of the paper)
    dD: float  # noqa: N815
    relative: float
    largest: float
    skipped: int


def magnitude(base: torch.Tensor, update: torch.Tensor | Update) -> Magnitude | None:
    """Measure by how much an update lengthens and turns the rows of a base, both [m, n]; None where all are zero.

    Notes
    -----
    One pass over blocks of rows, sums in float64. Length and angle come from `w0.w0`, `dW.dW` and `w0.dW` of each
    row without a difference of near numbers, so that an update 1e-9 of its base has its true dD of 1e-18 and less.
    """
    return magnitude_of(over_rows(Lengths, base, update))


@dataclass(slots=True)
class Lengths:
    """Of some rows: `[w0.w0, dw.dw, w0.dw, w.w]` of each, block by block. [4, rows]"""

    products: list[torch.Tensor] = field(default_factory=list)

    def add(self, block: Block) -> None:
        self.products.append(block.products)


def magnitude_of(spans: Sequence[Lengths]) -> Magnitude | None:
    """Return what `magnitude` does, from the sums over a pair's rows."""
    every = [products for span in spans for products in span.products]
    if not every:
        return None
    of_base, of_update, across, of_tuned = torch.cat(every, 1)
    there = (of_base > 0) & (of_tuned > 0)
    skipped = len(there) - int(there.sum())
    if not bool(there.any()):
        return None
    of_base, of_update, across, of_tuned = (part[there] for part in (of_base, of_update, across, of_tuned))
    before, after = of_base.sqrt(), of_tuned.sqrt()
    longer = (2 * across + of_update) / (before + after)
    return Magnitude(
        dM=float(longer.abs().mean()),
        dD=float(_turned(of_base, of_update, across, before * after).mean()),
        relative=float(longer.abs().mean() / before.mean()),
        largest=float((longer / before).abs().max()),
        skipped=skipped,
    )


def _turned(
    of_base: torch.Tensor, of_update: torch.Tensor, across: torch.Tensor, lengths: torch.Tensor
) -> torch.Tensor:
    """Return `1 - cos` of w0 and w0 + dW: `(|w0|^2 |dW|^2 - (w0.dW)^2) / (|w0| |w| (|w0| |w| + w0.w))`, of rows that
    turn by less than a right angle; the others lose nothing in the difference itself."""
    inner = of_base + across
    apart = (of_base * of_update - across.square()).clamp_min(0)
    return torch.where(inner > 0, apart / (lengths * (lengths + inner.abs())), 1 - inner / lengths)
