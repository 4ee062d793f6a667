"""The spectra of base, tuned weight and update, thinned to the points that a figure can show."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

_POINTS = 96


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Singular values at `index` (1 = largest; the first 32, then evenly on a logarithmic scale).

    base, tuned, update : the values of W0, W and dW there; each ends where its rank does, or where the values
    that were computed do (a certified answer knows the leading ones of base and tuned).
    """

    index: tuple[int, ...]
    base: tuple[float, ...]
    tuned: tuple[float, ...]
    update: tuple[float, ...]


def spectrum(base: torch.Tensor, tuned: torch.Tensor, update: torch.Tensor) -> Spectrum:
    """Thin three descending spectra."""
    index = _indices(max(len(base), len(tuned), len(update)))
    return Spectrum(index, *(_at(values, index) for values in (base, tuned, update)))


@lru_cache
def _indices(length: int) -> tuple[int, ...]:
    if length <= _POINTS:
        return tuple(range(1, length + 1))
    spread = np.geomspace(33, length, _POINTS - 32).round().astype(int)
    return tuple(sorted({*range(1, 33), *spread.tolist()}))


def _at(values: torch.Tensor, index: tuple[int, ...]) -> tuple[float, ...]:
    known = values.tolist()
    return tuple(known[position - 1] for position in index if position <= len(known))
