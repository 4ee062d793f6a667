"""How large an update is beside its base."""

from dataclasses import dataclass

import torch

from spectra.metrics.blocks import row_blocks


@dataclass(frozen=True, slots=True)
class Norms:
    """Frobenius norms of W0 and dW and their ratio; spectral norms; the cosine of W0 and W as vectors.

    ratio is 0 for a zero update and infinite for an update of a zero base.
    """

    base: float
    update: float
    ratio: float
    base_spectral: float
    update_spectral: float
    cosine: float


def norms(base: torch.Tensor, update: torch.Tensor, base_values: torch.Tensor, update_values: torch.Tensor) -> Norms:
    """Measure an update against its base, both [m, n]; the singular values give the spectral norms."""
    sums = torch.zeros(4, dtype=torch.float64)
    for W0, dW in row_blocks(base, update):
        W = W0 + dW
        sums += torch.stack([W0.square().sum(), dW.square().sum(), W.square().sum(), (W0 * W).sum()])
    size, change, tuned = sums[:3].sqrt().tolist()
    product = size * tuned
    return Norms(
        base=size,
        update=change,
        ratio=change / size if size else (float("inf") if change else 0.0),
        base_spectral=base_values[0].item() if len(base_values) else 0.0,
        update_spectral=update_values[0].item() if len(update_values) else 0.0,
        cosine=sums[3].item() / product if product else 0.0,
    )
