"""How similar a random direction is to a base, by chance alone. The scale to read a similarity on."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy.integrate
import scipy.special

_SAMPLED_BELOW = 64
_SAMPLES = 4096
_ROUNDING = 1e-6  # of a similarity in float32


@lru_cache(maxsize=256)
def expected_similarity(m: int, p: int) -> float:
    """Return the expected largest |cosine| of a random unit vector with p orthonormal vectors in R^m.

    `E = int_0^1 (1 - I_{x^2}(1/2, (m - 1) / 2)^p) dx` (regularised incomplete beta; takes the p
    cosines as independent, 0.059 at m = p = 4096). Below m = 64 it is sampled with a fixed seed: the
    cosines are then too dependent. At m = 64 it is already 0.33, so that counts at 0.5 mean little.
    """
    if m < 1 or p < 1:
        return 0.0
    if m < _SAMPLED_BELOW:
        return float(_sampled(m, p).mean())

    def exceeds(x: float) -> float:
        below = float(scipy.special.betainc(0.5, (m - 1) / 2, x * x))
        return 1.0 - below**p

    # The integrand falls from 1 to 0 around sqrt(2 ln p / m): tell the quadrature where to look.
    edge = min(0.99, float(np.sqrt(2 * np.log(max(p, 2)) / m)))
    return float(scipy.integrate.quad(exceeds, 0, 1, points=[edge / 2, edge, min(0.995, 2 * edge)], limit=200)[0])


def null_quantile(similarity: Sequence[float], m: int, p: int) -> tuple[float, ...]:
    """Return, for each similarity x, the chance that a random direction is no more similar: `P(max_i |u_i . u| <= x)`.

    `I_{x^2}(1/2, (m - 1) / 2)^p` (regularised incomplete beta; takes the p cosines as independent), below m = 64 the
    share of the draws that `expected_similarity` takes the mean of, so in steps of 1 / 4096. Near 1: more similar
    than chance; near 0: less similar than a random direction would be. Taken as independent, a low quantile comes out
    too large, on the side of chance: 0.12 for a true 0.05 at m = p = 64, 0.08 at 256, 0.06 at 1024; from the median up
    it is right to 0.05 at 64 and 0.01 at 1024. Cost: 0.1 ms for 10 similarities.
    """
    if m < 1 or p < 1:
        return (0.0,) * len(similarity)
    x = np.asarray(similarity, dtype=np.float64)
    if m < _SAMPLED_BELOW:
        below = np.searchsorted(_sampled(m, p), x + _ROUNDING, side="right") / _SAMPLES
    else:
        below = scipy.special.betainc(0.5, (m - 1) / 2, np.minimum(x * x, 1)) ** p
    return tuple(below.tolist())


@lru_cache(maxsize=256)
def _sampled(m: int, p: int) -> npt.NDArray[np.float64]:
    """Draw largest |cosines| of random unit vectors with p of m axes, from a fixed seed, ascending."""
    drawn = np.random.default_rng(0).standard_normal((_SAMPLES, m))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return np.sort(np.abs(drawn[:, :p]).max(axis=1))
