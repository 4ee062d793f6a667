"""Change of magnitude and of direction of a weight's rows, as DoRA reads fine-tuning: arXiv:2402.09353, sec. 4.1."""

from dataclasses import dataclass

import torch

from spectra.metrics.blocks import Blocks, over_rows
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
    of_base, of_update, across, of_tuned = torch.cat(over_rows(_products, base, update), 1)
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


def _products(blocks: Blocks) -> torch.Tensor:
    """Return `[w0.w0, dW.dW, w0.dW, w.w]` of each row. [4, rows]"""
    found = [torch.zeros(4, 0, dtype=torch.float64)]
    for rows in blocks:
        W0, dW = (block.double() for block in rows)
        W = W0 + dW
        found.append(torch.stack([(one * other).sum(1) for one, other in ((W0, W0), (dW, dW), (W0, dW), (W, W))]))
    return torch.cat(found, 1)
