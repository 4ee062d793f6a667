"""How similar a random direction is to a base, by chance alone. The scale to read a similarity on.

A random direction x is a vector g of independent normal numbers over its length, and the length tells nothing of the
direction: `max |g_i| = ||g|| max |x_i|`, a product of independent factors. Two of the three laws are known.
"""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import scipy.integrate
import scipy.special

_SAMPLED_BELOW = 64
_SAMPLES = 4096
_ROUNDING = 1e-6  # of a similarity in float32
_FAR = 12.0  # standard deviations beyond the usual largest of p normal numbers


@lru_cache(maxsize=256)
def expected_similarity(m: int, p: int) -> float:
    """Return the expected largest |cosine| of a random unit vector with p orthonormal vectors in R^m, exactly.

    `E = int_0^inf (1 - erf(t / sqrt 2)^p) dt / (sqrt 2 Gamma((m + 1) / 2) / Gamma(m / 2))`: the mean of the largest of
    p |normal numbers| over the mean length of m. 0.059 at m = p = 4096; at 64 it is 0.326, so that counts at 0.5 mean
    little.
    """
    if m < 1 or p < 1:
        return 0.0
    usual = math.sqrt(2 * math.log(max(p, 2)))  # the integrand falls from 1 to 0 around it
    largest, _ = scipy.integrate.quad(
        lambda t: 1 - scipy.special.erf(t / math.sqrt(2)) ** p, 0, usual + _FAR, points=[usual / 2, usual, 1.5 * usual]
    )
    length = math.sqrt(2) * math.exp(math.lgamma((m + 1) / 2) - math.lgamma(m / 2))
    return min(float(largest) / length, 1.0)


def null_quantile(similarity: Sequence[float], m: int, p: int) -> tuple[float, ...]:
    """Return, for each similarity x, the chance that a random direction is no more similar: `P(max_i |u_i . u| <= x)`.

    With `G(y) = erf(e^y / sqrt 2)^p`, the law of the logarithm of the largest of p |normal numbers|, and the mean and
    the variance v of the logarithm of the length of m of them, it is `G - v G'' / 2` at ln x + mean: the width that the
    length adds to the law is taken off again, to first order. Below m = 64 it is the share of 4096 draws from a fixed
    seed. Near 1: more similar than chance; near 0: less similar than a random direction would be. Right to 0.015.
    Cost: 0.1 ms for 10 similarities.
    """
    if m < 1 or p < 1:
        return (0.0,) * len(similarity)
    x = np.asarray(similarity, dtype=np.float64)
    if m < _SAMPLED_BELOW:
        below = np.searchsorted(_sampled(m, p), x + _ROUNDING, side="right") / _SAMPLES
    else:
        below = _without_length(x, m, p)
    return tuple(below.tolist())


def _without_length(x: npt.NDArray[np.float64], m: int, p: int) -> npt.NDArray[np.float64]:
    mean, v = (math.log(2) + scipy.special.digamma(m / 2)) / 2, scipy.special.polygamma(1, m / 2) / 4
    t = x * math.exp(mean)
    inside, density = scipy.special.erf(t / math.sqrt(2)), math.sqrt(2 / math.pi) * np.exp(-t * t / 2)
    slope = p * inside ** (p - 1) * density
    bend = p * (p - 1) * inside ** max(p - 2, 0) * density**2 - t * slope
    below: npt.NDArray[np.float64] = np.clip(inside**p - v / 2 * (t * slope + t * t * bend), 0, 1)
    return below


@lru_cache(maxsize=256)
def _sampled(m: int, p: int) -> npt.NDArray[np.float64]:
    """Draw largest |cosines| of random unit vectors with p of m axes, from a fixed seed, ascending."""
    drawn = np.random.default_rng(0).standard_normal((_SAMPLES, m))
    drawn /= np.linalg.norm(drawn, axis=1, keepdims=True)
    return np.sort(np.abs(drawn[:, :p]).max(axis=1))
