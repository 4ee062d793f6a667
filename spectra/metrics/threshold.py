"""The law of the threshold: how strong an update must be before a direction of its own leads.

The rectangular spiked model of Benaych-Georges and Nadakuditi (2012): to `W0` with singular values t of
law mu is added `theta u v^T`, u and v isotropic to W0. It puts a singular value at z where

    theta^2 D(z) = 1,    D(z) = phi(z) (c phi(z) + (1 - c) / z),    phi(z) = int z / (z^2 - t^2) dmu(t),

c = p / max(m, n). Xie, arXiv:2607.23711, reads that for intruders of a fine-tuned weight. It is a law of the mean
for isotropic updates, not a proof: the phase curve beside it is exact.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch

from spectra.engine.decomposition import resolution
from spectra.metrics import marchenko_pastur

_APART = 0.5  # of p^(-2/3), the spacing of values at an edge: the least distance at which D is read


@dataclass(frozen=True, slots=True)
class Threshold:
    """Strengths at which a direction of the update leads, and the scales that give it them.

    k : leading directions compared; edge : upper end of the bulk of the base's values.
    theta : strength that reaches sigma_k(W0). theta_bar : strength that leaves the bulk, without which there is no
    direction of the update at all. update_spectral : sigma_1(dW) at scale 1.
    """

    k: int
    edge: float
    theta: float
    theta_bar: float
    update_spectral: float

    @property
    def critical(self) -> float:
        """The scale at which the update's strongest direction is predicted to enter the top k: out of the bulk, and
        above sigma_k where that lies higher."""
        return max(self.theta, self.theta_bar) / self.update_spectral

    @property
    def critical_bulk(self) -> float:
        """The scale at which it is predicted to leave the bulk."""
        return self.theta_bar / self.update_spectral

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "critical": self.critical, "critical_bulk": self.critical_bulk}


def threshold(base_values: torch.Tensor, shape: tuple[int, int], update_spectral: float, *, k: int) -> Threshold | None:
    """Predict the scale at which an update of spectral norm sigma_1(dW) first intrudes among the top k.

    Parameters
    ----------
    base_values : all p singular values of W0, descending. shape : (m, n).
    update_spectral : sigma_1(dW), with the method's own scaling in dW: above 0.
    k : leading directions compared.

    Returns
    -------
    Threshold, or None where W0 has no more than k values that are not zero: then nothing need be entered.

    Notes
    -----
    An atom of mu at the place where D is read makes phi infinite and the threshold zero (3e-6 for a true 0.84),
    so D is read at least `p^(-2/3) / 2` of a value above it: the distance between values at an edge. Against 13
    Gaussian matrices of 200 to 2000 this theta_bar was 1 % below to 14 % above `c^(1/4)`, 5 % above in the mean.
    Law: `W0 -> a W0` gives `a theta`.

    References
    ----------
    Benaych-Georges and Nadakuditi 2012, J. Multivariate Anal. 111, Theorem 2.8; Xie, arXiv:2607.23711.
    """
    S = base_values.double()
    there = int(S.gt(resolution(float(S[0]), shape)).sum()) if len(S) else 0
    if there <= k:
        return None
    edge, last = bulk_edge(S[:there], shape), float(S[k - 1])
    return Threshold(
        k=k,
        edge=edge,
        theta=_strength(S[S.lt(last)], last, shape),
        theta_bar=_strength(S[S.le(edge)], edge, shape),
        update_spectral=update_spectral,
    )


def _strength(atoms: torch.Tensor, z: float, shape: tuple[int, int]) -> float:
    """Return `1 / sqrt(D(z))` for these atoms of mu, each of weight 1 / p, read at z or as near above them as may be.

    What lies above z is left out: to an isotropic direction it is a spike of its own. Without atoms there is nothing
    to push against, and the strength is z itself.
    """
    p = min(shape)
    if not len(atoms):
        return z
    z = max(z, float(atoms[0]) * (1 + _APART * p ** (-2 / 3)))
    c = p / max(shape)
    phi = float((z / (z * z - atoms.square())).sum()) / p
    return float((phi * (c * phi + (1 - c) / z)) ** -0.5)


def bulk_edge(values: torch.Tensor, shape: tuple[int, int]) -> float:
    """Return the largest singular value that belongs to the bulk: below the edge of noise with the same median.

    values : descending, without zeros. The Marchenko-Pastur law is scaled to the median, as Gavish and Donoho
    (arXiv:1305.5870) do for an unknown noise level.
    """
    p = min(shape)
    c = p / max(shape)
    edge = float(values.median()) * (1 + c**0.5) / marchenko_pastur.median(c) * (1 + p ** (-2 / 3))
    return float(values[values.le(edge)][0])
