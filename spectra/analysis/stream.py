"""One pass over one base and any number of tuned models, one matrix in memory at a time (on CUDA, a window of them).

The base's decomposition of a matrix is made once and used for every model that changes it. A fault
of one matrix is a row with its status; the pass goes on.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch

from spectra.analysis.batches import Answered, in_batches, on_one_base
from spectra.analysis.memory import is_out_of_memory
from spectra.analysis.settings import Progress, Settings
from spectra.basis_cache import BasisCache, folder
from spectra.engine.choose import Decompositions, Request, decompose, suits
from spectra.engine.decomposition import SVD
from spectra.engine.dense import require_finite
from spectra.engine.threads import suited_to
from spectra.errors import DecompositionError, FormatError, InputError, MachineError, NonFiniteError
from spectra.layout import Layout
from spectra.loaders.base import Base
from spectra.loaders.pairing import Pairs
from spectra.loaders.plan import Place
from spectra.metrics.blocks import has_entry
from spectra.metrics.intruders import no_intruders
from spectra.metrics.layer import Layer, measure, unmeasured
from spectra.metrics.status import FAILED, NONFINITE, OOM, ZERO, ZERO_BASE
from spectra.text import numbered
from spectra.updates import Storage, WeightPair

Found = TypeVar("Found")
_READ_CACHE = ("auto", "basis")
# Peak memory of one pair in float32 matrices of its size, by method, measured at 1536 and 2048 on the CPU.
COPIES = {"exact": 13, "basis": 10, "certified": 4, "auto": 13}


class BaseDecomposition:
    """The base SVD of the matrix at hand: from the cache of bases, and kept for the models after the first.

    The methods "auto" and "basis" read the cache; "basis" adds what it had to make. notes : what a reader of the
    row must know of that. A cache that cannot be used costs time, never a row.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._of: tuple[str, int | None, Layout] | None = None
        self._svd: SVD | None = None
        self._cached = False
        self.notes: tuple[str, ...] = ()

    def of(self, pair: WeightPair) -> SVD | None:
        """Return what is known of the pair's base. The cache is asked once a matrix."""
        self.notes = ()
        if self._of != (pair.key, pair.index, pair.layout):
            self._of, self._svd, self._cached = (pair.key, pair.index, pair.layout), None, False
            if self._settings.method in _READ_CACHE and suits(pair.shape, self._settings.request):
                self._look_up(pair)
        return self._svd

    def keep(self, pair: WeightPair, svd: SVD) -> None:
        """Take the decomposition that was used: the one that `of` gave, or one that had to be made."""
        if svd is self._svd:
            self.notes += ("the decomposition of its base is from the cache of bases",) if self._cached else ()
            return
        if self._svd is None and self._settings.method == "basis" and suits(pair.shape, self._settings.request):
            try:
                BasisCache(folder()).keep(pair.base, svd)
            except MachineError as fault:
                self.notes += (f"its decomposition was not kept: {fault}",)
        self._svd, self._cached = svd, False

    def _look_up(self, pair: WeightPair) -> None:
        try:
            self._svd = BasisCache(folder()).find(pair.base)
            self._cached = self._svd is not None
        except (FormatError, MachineError) as fault:
            self.notes += (f"the cache of bases did not help: {fault}",)


def stream(
    models: Mapping[str, Pairs], settings: Settings, progress: Progress | None = None
) -> Iterator[tuple[str, Layer]]:
    """Yield (model name, row) for every matrix that any model changes, in base order."""
    wanted = {place for pairs in models.values() for place in pairs.places}
    base = next(iter(models.values())).base
    order = [place for key in base.tensors for index in base.indices(key) if (place := (key, index)) in wanted]
    total = sum(len(pairs) for pairs in models.values())
    tasks = [(name, place) for place in order for name, pairs in models.items() if place in pairs]
    kept, unread = BaseDecomposition(settings), list[Exception]()
    for done, (name, place, found) in enumerate(_prepared(tasks, models, settings, kept)):
        if progress is not None:
            progress(done, total, numbered(*place))
        if isinstance(found, InputError):
            unread.append(found)
            yield name, _unread(models[name].base, place, found)
        else:
            with suited_to(found[0].shape):
                row = _row(found[0], settings, kept, found[1])
            yield name, row
    if unread and len(unread) == len(tasks):
        raise unread[0]  # nothing could be read: that is the answer, and no row is lost by it
    if progress is not None:
        progress(total, total, "")


def read_each(
    places: Sequence[Place], read: Callable[[Place], Found], progress: Progress | None
) -> Iterator[tuple[Place, Found | InputError]]:
    """Yield every place with what `read` gives for it, or with why it cannot be read; raise where none can be."""
    unread = 0
    for done, place in enumerate(places):
        if progress is not None:
            progress(done, len(places), numbered(*place))
        found: Found | InputError
        try:
            found = read(place)
        except InputError as fault:
            unread += 1
            if unread == len(places):
                raise  # nothing could be read: that is the answer
            found = fault
        yield place, found
    if progress is not None:
        progress(len(places), len(places), "")


def _prepared(
    tasks: Sequence[tuple[str, Place]], models: Mapping[str, Pairs], settings: Settings, kept: BaseDecomposition
) -> Iterator[tuple[str, Place, Answered | InputError]]:
    """Yield each task's pair, with its answer where it was had in a batch; or why it cannot be read."""
    unread: dict[int, InputError] = {}

    def readable() -> Iterator[WeightPair]:
        for number, (name, place) in enumerate(tasks):
            try:
                yield models[name].pair(*place)
            except InputError as fault:
                unread[number] = fault

    answered: Iterator[Answered] = ((pair, None) for pair in readable())
    if settings.device != "cpu" and settings.method != "basis":
        answered = in_batches(readable(), settings.request)
    elif len(models) > 1:  # it reads one pair ahead, which one model alone has no use for
        answered = on_one_base(readable(), settings.request, kept)
    coming: Answered | None = None
    for number, (name, place) in enumerate(tasks):
        coming = coming or next(answered, None)  # taking the next one that can be read passes those that cannot
        if number in unread:
            yield name, place, unread[number]
        elif coming is not None:
            yield name, place, coming
            coming = None


def _unread(base: Base, place: Place, fault: InputError) -> Layer:
    """Return the row of a pair that could not be read."""
    key, index = place
    storage = base.storage(key)
    return Layer(
        key=key,
        name=base.name(key, index),
        index=index,
        shape=base.layout(key).shape,
        status=FAILED,
        reason=str(fault),
        method="none",
        update_kind="unread",
        base_storage=storage,
        update_storage=Storage(storage.dtype, 0, 0),
    )


def _row(pair: WeightPair, settings: Settings, kept: BaseDecomposition, ready: Decompositions | None) -> Layer:
    try:
        nothing = nothing_to_measure(pair)
        if nothing is not None:
            none = tuple(no_intruders(settings.k, settings.epsilon, side) for side in settings.sides)
            return unmeasured(pair, *nothing, none if nothing[0] == ZERO else ())
        found, notes = (ready, ()) if ready is not None else _decomposed(pair, settings.request, kept.of(pair))
        if found.base is not None:
            kept.keep(pair, found.base)
        told = replace(pair, notes=(*pair.notes, *kept.notes, *notes))
        return measure(told, found, k=settings.k, epsilon=settings.epsilon, device=settings.device)
    except (DecompositionError, MemoryError, RuntimeError) as fault:
        return unmeasured(pair, *status_of(fault, memory_of(pair, settings.method)))


def _decomposed(pair: WeightPair, request: Request, base: SVD | None) -> tuple[Decompositions, tuple[str, ...]]:
    """Decompose a pair on the device asked for, or on the CPU, with a note, where its memory does not hold it."""
    try:
        return decompose(pair, request, base=base), ()
    except RuntimeError as fault:
        if request.device == "cpu" or not is_out_of_memory(fault):
            raise
    torch.cuda.empty_cache()
    found = decompose(pair, replace(request, device="cpu"), base=base)
    return found, (f"answered on the CPU: the memory of {request.device} ran out",)


def nothing_to_measure(pair: WeightPair) -> tuple[str, str] | None:
    """Return the status and the reason of a pair without an update or a base, None for any other.

    Raises NonFiniteError for NaN or infinity in either.
    """
    _require_finite(pair)
    if is_zero(pair):
        return ZERO, "base and tuned are equal: there is no update"
    if not has_entry(pair.base):
        return ZERO_BASE, "the base is zero: it has no directions to compare with"
    return None


def status_of(fault: Exception, remark: str) -> tuple[str, str]:
    """Return the status and the reason of a matrix that met a fault; raise one that is none of a matrix's own.

    remark : what is to be said where memory ran out.
    """
    if isinstance(fault, DecompositionError):
        return NONFINITE if isinstance(fault, NonFiniteError) else FAILED, str(fault)
    if not is_out_of_memory(fault):
        raise fault
    return OOM, f"out of memory: {remark}"


def memory_of(pair: WeightPair, method: str) -> str:
    """Say how much memory a pair needs with a method."""
    m, n = pair.shape
    return f"{m} x {n} needs about {COPIES[method] * 4 * m * n / 2**30:.1f} GB with the method {method}"


def is_zero(pair: WeightPair) -> bool:
    """Return whether an update is exactly zero, by its factors where it has them."""
    factors = pair.update.factors
    return not (all(bool(factor.any()) for factor in factors or ()) and has_entry(pair.update))


def _require_finite(pair: WeightPair) -> None:
    require_finite(pair.base, "the base")
    if pair.update.factors is None:
        require_finite(pair.update.dense(), "the update")
        return
    for name, factor in zip("BA", pair.update.factors, strict=True):
        require_finite(factor, f"the factor {name}")
