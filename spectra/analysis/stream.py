"""One pass over one base and any number of tuned models, one matrix in memory at a time.

The base's decomposition of a matrix is made once and used for every model that changes it. A fault
of one matrix is a row with its status; the pass goes on.
"""

from collections.abc import Iterator, Mapping

import torch

from spectra.analysis.settings import Progress, Settings
from spectra.engine.choose import decompose
from spectra.engine.decomposition import SVD
from spectra.engine.dense import require_finite
from spectra.errors import DecompositionError, NonFiniteError
from spectra.layout import Layout
from spectra.loaders.pairing import Pairs
from spectra.metrics.intruders import no_intruders
from spectra.metrics.layer import FAILED, NONFINITE, OOM, ZERO, ZERO_BASE, Layer, measure, unmeasured
from spectra.updates import WeightPair

_COPIES = 13  # peak memory of one pair in matrices of its size, measured at 2048 x 2048


class _BaseDecomposition:
    """Keeps the base SVD of the matrix at hand, for the models that come after the first."""

    def __init__(self) -> None:
        self._of: tuple[str, Layout] | None = None
        self._svd: SVD | None = None

    def of(self, pair: WeightPair) -> SVD | None:
        return self._svd if self._of == (pair.key, pair.layout) else None

    def keep(self, pair: WeightPair, svd: SVD) -> None:
        self._of, self._svd = (pair.key, pair.layout), svd


def stream(
    models: Mapping[str, Pairs], settings: Settings, progress: Progress | None = None
) -> Iterator[tuple[str, Layer]]:
    """Yield (model name, row) for every matrix that any model changes, in base order."""
    wanted = {key for pairs in models.values() for key in pairs.keys}
    order = [key for key in next(iter(models.values())).base.tensors if key in wanted]
    total = sum(len(pairs) for pairs in models.values())
    done = 0
    for key in order:
        kept = _BaseDecomposition()
        for name, pairs in models.items():
            if key not in pairs:
                continue
            if progress is not None:
                progress(done, total, key)
            yield name, _row(pairs.pair(key), settings, kept)
            done += 1
    if progress is not None:
        progress(total, total, "")


def _row(pair: WeightPair, settings: Settings, kept: _BaseDecomposition) -> Layer:
    try:
        _require_finite(pair)
        if is_zero(pair):
            none = tuple(no_intruders(settings.k, settings.epsilon, side) for side in settings.sides)
            return unmeasured(pair, ZERO, "base and tuned are equal: there is no update", none)
        if not bool(pair.base.any()):
            return unmeasured(pair, ZERO_BASE, "the base is zero: it has no directions to compare with")
        found = decompose(pair, settings.request, base=kept.of(pair))
        if found.base is not None:
            kept.keep(pair, found.base)
        return measure(pair, found, k=settings.k, epsilon=settings.epsilon)
    except NonFiniteError as fault:
        return unmeasured(pair, NONFINITE, str(fault))
    except DecompositionError as fault:
        return unmeasured(pair, FAILED, str(fault))
    except (MemoryError, RuntimeError) as fault:
        if not _is_out_of_memory(fault):
            raise
        m, n = pair.shape
        needed = _COPIES * 4 * m * n / 2**30
        return unmeasured(pair, OOM, f"out of memory: {m} x {n} needs about {needed:.1f} GB in full")


def is_zero(pair: WeightPair) -> bool:
    """Return whether an update is exactly zero, by its factors where it has them."""
    if pair.update.factors is None:
        return not bool(pair.update.dense().any())
    B, A = pair.update.factors
    return not (bool(B.any()) and bool(A.any()) and bool(pair.update.dense().any()))


def _require_finite(pair: WeightPair) -> None:
    require_finite(pair.base, "the base")
    if pair.update.factors is None:
        require_finite(pair.update.dense(), "the update")
        return
    for name, factor in zip("BA", pair.update.factors, strict=True):
        require_finite(factor, f"the factor {name}")


def _is_out_of_memory(fault: Exception) -> bool:
    text = str(fault)
    return (
        isinstance(fault, MemoryError | torch.OutOfMemoryError)
        or "allocate memory" in text
        or "not enough memory" in text
    )
