"""Pairs in batches: the updates of one base matrix together, and on a CUDA device matrices of one shape.

One matrix at a time would leave the device idle. A window of pairs is read by a thread while the one before it is
computed; within a window, pairs of one shape and kind are answered together, and the next batch goes to the device
while one is computed. What a batch cannot answer is left to the caller, one pair at a time; a batch that does not
fit is halved.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import torch

from spectra.analysis.memory import is_out_of_memory
from spectra.engine.choose import (
    Decompositions,
    Request,
    basis_batch,
    certified_batch,
    method_for,
    product_dtype,
    rejected,
)
from spectra.engine.decomposition import SVD
from spectra.engine.feed import Feed
from spectra.updates import WeightPair

_FLEET = 32  # updates of one base matrix answered together
_WINDOW = 4 * 2**30  # bytes of float32 pairs read ahead, and held while they are computed
_BATCH = 64  # matrices in one batch at most: by then the launches are paid for
_SHARE = 0.4  # of the device's free memory that a batch may take
_COPIES = 3.0  # of the base in float32 that a batch holds: W0, W where it is formed, and the spaces

Answered = tuple[WeightPair, Decompositions | None]


def in_batches(pairs: Iterable[WeightPair], request: Request) -> Iterator[Answered]:
    """Yield pairs in their order, each with its answer where a batch gave one."""
    source, feed = iter(pairs), Feed(request.device)
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(_window, source)
        while window := coming.result():
            coming = reader.submit(_window, source)
            yield from zip(window, _answers(window, request, feed), strict=True)


class Known(Protocol):
    """Who knows the decomposition of a pair's base, if anyone does."""

    def of(self, pair: WeightPair) -> SVD | None: ...


def on_one_base(pairs: Iterable[WeightPair], request: Request, bases: Known) -> Iterator[Answered]:
    """Yield pairs in their order, those that follow each other on one known base answered together.

    Pairs are of one base where they hold the same matrix, not an equal one.
    """
    for _, group in itertools.groupby(pairs, key=lambda pair: id(pair.base)):
        while fleet := list(itertools.islice(group, _FLEET)):
            yield from zip(fleet, _in_basis(fleet, request, bases), strict=True)


def _in_basis(fleet: list[WeightPair], request: Request, bases: Known) -> list[Decompositions | None]:
    answers: list[Decompositions | None] = [None] * len(fleet)
    if len(fleet) == 1 or request.method == "exact" or rejected(fleet[0], request) is not None:
        return answers
    base = bases.of(fleet[0])
    places = [place for place, pair in enumerate(fleet) if base is not None and _suits_basis(pair, request, base)]
    if base is None or len(places) < 2:
        return answers
    try:
        found = basis_batch([fleet[place] for place in places], request, base)
    except RuntimeError as fault:
        if not is_out_of_memory(fault):
            raise
        return answers
    for place, answer in zip(places, found, strict=True):
        answers[place] = answer
    return answers


def _suits_basis(pair: WeightPair, request: Request, base: SVD) -> bool:
    factors = pair.update.factors
    if factors is None or method_for(pair, request, base) != "basis":
        return False
    return all(bool(factor.any()) and bool(factor.isfinite().all()) for factor in factors)


def _window(source: Iterator[WeightPair]) -> list[WeightPair]:
    """Read pairs until they fill the window."""
    window: list[WeightPair] = []
    held = 0
    for pair in source:
        window.append(pair)
        held += 4 * pair.base.numel() * (1 if pair.update.factors is not None else 2)
        if held >= _WINDOW:
            break
    return window


def _answers(window: list[WeightPair], request: Request, feed: Feed) -> list[Decompositions | None]:
    answers: list[Decompositions | None] = [None] * len(window)
    batches = [[(place, window[place]) for place in places] for places in _batches(window, request)]
    moved = feed(_matrices([pair for _, pair in batch], request.device) for batch in batches)
    for batch in batches:
        found = _answer([pair for _, pair in batch], request, _arrived(moved))
        for (place, _), answer in zip(batch, found, strict=True):
            answers[place] = answer
    return answers


def _batches(window: list[WeightPair], request: Request) -> list[list[int]]:
    """Return the places in the window of the pairs that are answered together."""
    groups: dict[tuple[tuple[int, int], bool, str], list[int]] = defaultdict(list)
    for place, pair in enumerate(window):
        if method_for(pair, request, None) == "certified" and rejected(pair, request) is None:  # NaN and infinity too
            groups[pair.shape, pair.update.factors is not None, pair.base_storage.dtype].append(place)
    batches = []
    for (shape, _, _), places in groups.items():
        size = _batch_size(shape, request.device)
        batches += [places[first : first + size] for first in range(0, len(places), size)]
    return batches


def _matrices(pairs: Sequence[WeightPair], device: str) -> list[torch.Tensor]:
    dtype = product_dtype(pairs, device)
    return [pair.base.to(dtype) for pair in pairs]


def _arrived(moved: Iterator[torch.Tensor]) -> torch.Tensor | None:
    """Return the next batch on the device, None where memory to read ahead has run out."""
    try:
        return next(moved, None)
    except RuntimeError as fault:
        if not is_out_of_memory(fault):
            raise
        return None


def _answer(pairs: list[WeightPair], request: Request, base: torch.Tensor | None) -> list[Decompositions | None]:
    """Answer pairs at once, or half of them at a time where the device's memory does not hold them."""
    try:
        return certified_batch(pairs, request, base)
    except RuntimeError as fault:
        if not is_out_of_memory(fault):
            raise
    del base
    torch.cuda.empty_cache()
    if len(pairs) == 1:
        return [None]
    half = len(pairs) // 2
    return [answer for part in (pairs[:half], pairs[half:]) for answer in _answer(part, request, None)]


def _batch_size(shape: tuple[int, int], device: str) -> int:
    free, _ = torch.cuda.mem_get_info(device)
    m, n = shape
    return max(1, min(_BATCH, int(_SHARE * free / (_COPIES * 4 * m * n))))
