"""The correlation of two numbers over the matrices of a model, with the interval that so few of them leave."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

_FEWEST = 4
_TWO_SIDED = 1.959963984540054  # standard deviations that hold 95 % of a normal law


@dataclass(frozen=True, slots=True)
class Correlation:
    """Pearson's r over `matrices` pairs; low, high : its 95 % interval by Fisher's transform, pairs independent."""

    matrices: int
    r: float
    low: float
    high: float


def correlation(first: Sequence[float], second: Sequence[float]) -> Correlation | None:
    """Correlate two numbers of each matrix: None below four matrices, or where one of the numbers never varies.

    The matrices of a model are not independent (blocks were trained together): the interval is a lower bound on the
    doubt.
    """
    n = len(first)
    if n < _FEWEST or min(first) == max(first) or min(second) == max(second):
        return None
    r = max(-1.0, min(1.0, statistics.correlation(first, second)))
    if abs(r) == 1:
        return Correlation(n, r, r, r)
    width = _TWO_SIDED / math.sqrt(n - 3)
    return Correlation(n, r, math.tanh(math.atanh(r) - width), math.tanh(math.atanh(r) + width))
