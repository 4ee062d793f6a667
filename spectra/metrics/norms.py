"""How large an update is beside its base."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from spectra.metrics.blocks import Block, over_rows
from spectra.updates import Update


@dataclass(frozen=True, slots=True)
class Norms:
    """Frobenius norms of W0 and dW and their ratio; spectral norms; the cosine of W0 and W as vectors.

    ratio is 0 for a zero update and infinite for an update of a zero base. base_spectral is None where no singular
    value of W0 was computed. base_largest, tuned_largest : the largest
    |entry| of W0 and of W.
    """

    base: float
    update: float
    ratio: float
    base_spectral: float | None
    update_spectral: float
    cosine: float
    base_largest: float
    tuned_largest: float


def norms(
    base: torch.Tensor, update: torch.Tensor | Update, base_values: torch.Tensor, update_values: torch.Tensor
) -> Norms:
    """Measure an update against its base, both [m, n]; the singular values give the spectral norms."""
    return norms_of(over_rows(Sizes, base, update), base_values, update_values)


@dataclass(slots=True)
class Sizes:
    """Of some rows: `[W0 . W0, dW . dW, W0 . dW]`, and the largest |entry| of W0 and of W."""

    products: torch.Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))
    base_largest: float = 0.0
    tuned_largest: float = 0.0

    def add(self, block: Block) -> None:
        self.products += block.products[:3].sum(1)
        if block.base.numel():
            self.base_largest = max(self.base_largest, _largest(block.base))
            self.tuned_largest = max(self.tuned_largest, _largest(block.tuned))


def norms_of(spans: Sequence[Sizes], base_values: torch.Tensor, update_values: torch.Tensor) -> Norms:
    """Return what `norms` does, from the sums over a pair's rows."""
    of_base, of_update, across = torch.stack([span.products for span in spans]).sum(0).tolist()
    size, change, tuned = of_base**0.5, of_update**0.5, max(of_base + 2 * across + of_update, 0.0) ** 0.5
    product = size * tuned
    return Norms(
        base=size,
        update=change,
        ratio=change / size if size else (float("inf") if change else 0.0),
        base_spectral=base_values[0].item() if len(base_values) else None,
        update_spectral=update_values[0].item() if len(update_values) else 0.0,
        cosine=(of_base + across) / product if product else 0.0,
        base_largest=max(span.base_largest for span in spans),
        tuned_largest=max(span.tuned_largest for span in spans),
    )


def _largest(entries: torch.Tensor) -> float:
    least, most = entries.aminmax()
    return max(-least.item(), most.item())
