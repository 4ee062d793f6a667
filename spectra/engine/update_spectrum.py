"""The singular values of an update, by the cheapest exact way or as an estimate, and how they were had."""

from dataclasses import dataclass, replace

import torch

from spectra.engine import dense, factored
from spectra.engine.decomposition import SVD
from spectra.engine.krylov import Linear, Operator
from spectra.engine.quadrature import Products, Quadrature, estimate
from spectra.updates import Dense, Update, WeightPair

# How the spectrum of an update without factors may be had, for its ranks.
SPECTRA = {
    "exact": "every singular value",
    "estimated": "the leading values, and ranks with error bars, from products alone",
    "auto": "estimated where both sides are above 8192 and the method is not exact",
}
_EXACT_UP_TO = 8192  # smaller dimension up to which "auto" wants every value
_ESTIMATED_FROM = 128  # and that below which an estimate costs more than the values
LEAST, MOST = 1e-12, 1e5  # of the largest entry: between them fourth powers of singular values stay within float32


@dataclass(frozen=True, slots=True)
class UpdateSpectrum:
    """Singular values of dW, descending, and how they were had: all, or the leading ones beside an estimate of ranks.

    svd : the whole decomposition of dW where its factors gave that, else None.
    """

    values: torch.Tensor
    how: str
    estimate: Quadrature | None = None
    svd: SVD | None = None


def update_values(pair: WeightPair, device: str) -> UpdateSpectrum:
    """Return all singular values of dW, from its factors where it has them."""
    if pair.update.factors is not None:
        svd = factored.svd(*pair.update.factors)
        return UpdateSpectrum(svd.S, "the update from its factors, never formed", svd=svd)
    known = pair.update.values()
    if known is not None:
        return UpdateSpectrum(known, f"the update from its {pair.update.kind} structure, never formed")
    values, how = dense.values(pair.update.dense(), device=device)
    return UpdateSpectrum(values, f"the update by its singular values alone ({how})")


def update_spectrum(pair: WeightPair, spectrum: str, device: str) -> UpdateSpectrum:
    """Return the singular values of dW, or the leading ones with an estimate of the ranks.

    spectrum : a word of `SPECTRA`. A factored update is always exact: that costs next to nothing.
    """
    p = min(pair.shape)
    wanted = spectrum == "estimated" or (spectrum == "auto" and p > _EXACT_UP_TO)
    because = _against_estimate(pair) if wanted and pair.update.factors is None else None
    if not wanted or pair.update.factors is not None or because is not None:
        exact = update_values(pair, device)
        return exact if because is None else replace(exact, how=f"{exact.how}, as it is {because} for an estimate")
    found = estimate(*_operator(pair, device))
    how = f"the ranks of the update estimated from {found.probes} random vectors of {found.steps} Lanczos steps each"
    return UpdateSpectrum(found.values, how, found)


def _operator(pair: WeightPair, device: str) -> tuple[Linear, float]:
    """Return the update's products and its energy; of a structure, nothing stays formed."""
    energy = dense.frobenius(pair.update.dense()) ** 2
    if isinstance(pair.update, Dense):
        return Operator(pair.update.matrix.to(device)[None]), energy
    return Products(pair.update, pair.base), energy


def _against_estimate(pair: WeightPair) -> str | None:
    """Say why the ranks of an update are not estimated, None where they may be."""
    if min(pair.shape) < _ESTIMATED_FROM:
        return "too small"
    return None if LEAST < largest_entry(pair.update) < MOST else "beyond the range of float32 products"


def largest_entry(matrix: torch.Tensor | Update) -> float:
    """Return the largest absolute entry; of factors, the most that an entry of their product may be."""
    if not isinstance(matrix, torch.Tensor):
        if matrix.factors is not None:
            B, A = matrix.factors
            return B.shape[1] * largest_entry(B) * largest_entry(A)
        matrix = matrix.dense()
    least, most = torch.aminmax(matrix)
    return max(-least.item(), most.item())
