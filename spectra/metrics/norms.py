"""How large an update is beside its base."""

from dataclasses import dataclass

import torch

from spectra.metrics.blocks import Blocks, over_rows
from spectra.updates import Update


@dataclass(frozen=True, slots=True)
class Norms:
    """Frobenius norms of W0 and dW and their ratio; spectral norms; the cosine of W0 and W as vectors.

    ratio is 0 for a zero update and infinite for an update of a zero base. base_largest, tuned_largest : the largest
    |entry| of W0 and of W.
    """

    base: float
    update: float
    ratio: float
    base_spectral: float
    update_spectral: float
    cosine: float
    base_largest: float
    tuned_largest: float


def norms(
    base: torch.Tensor, update: torch.Tensor | Update, base_values: torch.Tensor, update_values: torch.Tensor
) -> Norms:
    """Measure an update against its base, both [m, n]; the singular values give the spectral norms."""
    spans = over_rows(_span, base, update)
    of_base, of_update, across = torch.stack([span.products for span in spans]).sum(0).tolist()
    size, change, tuned = of_base**0.5, of_update**0.5, max(of_base + 2 * across + of_update, 0.0) ** 0.5
    product = size * tuned
    return Norms(
        base=size,
        update=change,
        ratio=change / size if size else (float("inf") if change else 0.0),
        base_spectral=base_values[0].item() if len(base_values) else 0.0,
        update_spectral=update_values[0].item() if len(update_values) else 0.0,
        cosine=(of_base + across) / product if product else 0.0,
        base_largest=max(span.base_largest for span in spans),
        tuned_largest=max(span.tuned_largest for span in spans),
    )


@dataclass(slots=True)
class _Span:
    """Of some rows: `[W0 . W0, dW . dW, W0 . dW]`, and the largest |entry| of W0 and of W."""

    products: torch.Tensor
    base_largest: float = 0.0
    tuned_largest: float = 0.0


def _span(blocks: Blocks) -> _Span:
    found = _Span(torch.zeros(3, dtype=torch.float64))
    for rows in blocks:
        if rows[0].numel():
            found.base_largest = max(found.base_largest, _largest(rows[0]))
            found.tuned_largest = max(found.tuned_largest, _largest(rows[0] + rows[1]))
        W0, dW = (block.double().flatten() for block in rows)
        found.products += torch.stack([W0 @ W0, dW @ dW, W0 @ dW])
    return found


def _largest(entries: torch.Tensor) -> float:
    least, most = entries.aminmax()
    return max(-least.item(), most.item())
