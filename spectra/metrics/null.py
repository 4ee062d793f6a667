"""How similar a random direction is to a base, by chance alone. The scale to read a similarity on."""

from functools import lru_cache

import numpy as np
import scipy.integrate
import scipy.special

_SAMPLED_BELOW = 64
_SAMPLES = 4096


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
        drawn = np.random.default_rng(0).standard_normal((_SAMPLES, m))
        drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
        return float(np.abs(drawn[:, :p]).max(axis=1).mean())

    def exceeds(x: float) -> float:
        below = float(scipy.special.betainc(0.5, (m - 1) / 2, x * x))
        return 1.0 - below**p

    # The integrand falls from 1 to 0 around sqrt(2 ln p / m): tell the quadrature where to look.
    edge = min(0.99, float(np.sqrt(2 * np.log(max(p, 2)) / m)))
    return float(scipy.integrate.quad(exceeds, 0, 1, points=[edge / 2, edge, min(0.995, 2 * edge)], limit=200)[0])
