"""Where noise would end in the spectrum of an update: the edges of Marchenko-Pastur and of Gavish-Donoho."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from spectra.engine.decomposition import resolution
from spectra.metrics import marchenko_pastur


@dataclass(frozen=True, slots=True)
class Edges:
    """Edges of the bulk of dW, its noise level taken from its median singular value.

    sigma : standard deviation of an entry of noise with that median. marchenko_pastur : `sigma (sqrt m + sqrt n)`.
    gavish_donoho : the hard threshold of least error at unknown noise level (arXiv:1305.5870). above_* : values
    of dW above each. distance : the largest difference, in shares of the values, between the spectrum and the law of
    that noise: far from 0, the bulk is no noise and neither edge means anything.
    """

    sigma: float
    marchenko_pastur: float
    above_marchenko_pastur: int
    gavish_donoho: float
    above_gavish_donoho: int
    distance: float


def edges(update_values: torch.Tensor, shape: tuple[int, int]) -> Edges | None:
    """Find where the spectrum of an update would end if it were noise, and how far it is from noise.

    update_values : singular values of dW, descending. shape : (m, n).
    None where not all p = min(m, n) of them are known (an update of factors, an estimate), or where the median is
    zero to rounding: there is no bulk.

    Notes
    -----
    Noise alone has a value above its Marchenko-Pastur edge in about one matrix of five, by a share of `p^(-2/3)`. A few
    strong directions do not move the median; where more than about a tenth of the values are signal, sigma is too
    high. Law: `dW -> a dW` scales sigma and both edges, nothing else.

    References
    ----------
    Gavish and Donoho 2014, arXiv:1305.5870, equations 3 to 5.
    """
    p = min(shape)
    if p == 0 or len(update_values) < p:
        return None
    s = update_values.double().numpy()
    middle = float(np.median(s))
    if middle <= resolution(float(s[0]), shape):
        return None
    c = p / max(shape)
    unit = middle / marchenko_pastur.median(c)  # sigma sqrt(max(m, n))
    edge, optimal = unit * (1 + math.sqrt(c)), unit * _optimal(c)
    return Edges(
        sigma=unit / math.sqrt(max(shape)),
        marchenko_pastur=edge,
        above_marchenko_pastur=int((s > edge).sum()),
        gavish_donoho=optimal,
        above_gavish_donoho=int((s > optimal).sum()),
        distance=_distance(s / unit, c),
    )


def _optimal(c: float) -> float:
    """The hard threshold of least mean squared error over `sigma sqrt(max(m, n))`, the noise level known."""
    return math.sqrt(2 * (c + 1) + 8 * c / (c + 1 + math.sqrt(c * c + 14 * c + 1)))


def _distance(s: np.ndarray, c: float) -> float:
    """Kolmogorov-Smirnov distance of descending values from the law of noise."""
    p, law = len(s), marchenko_pastur.above(s, c)
    steps = np.arange(p + 1) / p
    return float(max((steps[1:] - law).max(), (law - steps[:-1]).max()))
