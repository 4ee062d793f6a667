"""The law of noise: how the singular values of a matrix of independent entries lie (Marchenko and Pastur 1967).

Of an [m, n] matrix with entries of mean 0 and variance `1 / max(m, n)` they fill `[1 - sqrt c, 1 + sqrt c]`,
c = p / max(m, n), p = min(m, n). Entries of another standard deviation sigma scale them by `sigma sqrt(max(m, n))`.
"""

import math
from functools import lru_cache

import numpy as np
import scipy.optimize
from numpy.typing import NDArray


def above(s: NDArray[np.float64], c: float) -> NDArray[np.float64]:
    """Return the share of singular values above each s, c in (0, 1].

    With `s^2 = 1 + c + 2 sqrt(c) cos t` it is `2 / pi int_0^t sin^2 / (1 + c + 2 sqrt(c) cos)`, in closed form.
    """
    cosine = np.clip((s**2 - 1 - c) / (2 * math.sqrt(c)), -1, 1)
    t = np.arccos(cosine)
    turned = np.arctan2((1 - math.sqrt(c)) * np.sin(t / 2), (1 + math.sqrt(c)) * np.cos(t / 2))
    inside = (1 + c) * t / (4 * c) - np.sin(t) / (2 * math.sqrt(c)) - (1 - c) * turned / (2 * c)
    share: NDArray[np.float64] = 2 / math.pi * inside
    return share


@lru_cache(maxsize=256)
def median(c: float) -> float:
    """Return the median singular value, c in (0, 1]."""
    low, high = 1 - math.sqrt(c), 1 + math.sqrt(c)
    found: float = scipy.optimize.brentq(lambda s: float(above(np.asarray(s), c)) - 0.5, low, high, xtol=1e-14)
    return found
