"""How large an update is beside its base."""

from dataclasses import dataclass

import torch


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
    W0, dW = base.double(), update.double()
    size, change = torch.linalg.vector_norm(W0).item(), torch.linalg.vector_norm(dW).item()
    tuned = torch.linalg.vector_norm(W0 + dW).item()
    product = size * tuned
    return Norms(
        base=size,
        update=change,
        ratio=change / size if size else (float("inf") if change else 0.0),
        base_spectral=base_values[0].item() if len(base_values) else 0.0,
        update_spectral=update_values[0].item() if len(update_values) else 0.0,
        cosine=(W0 * (W0 + dW)).sum().item() / product if product else 0.0,
    )
