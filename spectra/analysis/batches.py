"""Pairs in batches for a CUDA device, where one matrix at a time would leave it idle.

A window of pairs is read by a thread while the one before it is computed; within a window, pairs of one shape
and kind are answered together. What a batch cannot answer is left to the caller, one pair at a time.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch

from spectra.engine.choose import Decompositions, Request, certified_batch, method_for, rejected
from spectra.updates import WeightPair

_WINDOW = 4 * 2**30  # bytes of float32 pairs read ahead, and held while they are computed
_BATCH = 64  # matrices in one batch at most: by then the launches are paid for
_SHARE = 0.4  # of the device's free memory that a batch may take
_COPIES = 3.0  # of the base in float32 that a batch holds: W0, W where it is formed, and the spaces

Answered = tuple[WeightPair, Decompositions | None]


def in_batches(pairs: Iterable[WeightPair], request: Request) -> Iterator[Answered]:
    """Yield pairs in their order, each with its answer where a batch gave one."""
    source = iter(pairs)
    with ThreadPoolExecutor(1) as reader:
        coming = reader.submit(_window, source)
        while window := coming.result():
            coming = reader.submit(_window, source)
            yield from zip(window, _answers(window, request), strict=True)


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


def _answers(window: list[WeightPair], request: Request) -> list[Decompositions | None]:
    groups: dict[tuple[tuple[int, int], bool, str], list[int]] = defaultdict(list)
    for place, pair in enumerate(window):
        if method_for(pair, request, None) == "certified" and rejected(pair, request) is None:  # NaN and infinity too
            groups[pair.shape, pair.update.factors is not None, pair.base_storage.dtype].append(place)
    answers: list[Decompositions | None] = [None] * len(window)
    for (shape, _, _), places in groups.items():
        size = _batch_size(shape, request.device)
        for batch in (places[first : first + size] for first in range(0, len(places), size)):
            found = certified_batch([window[place] for place in batch], request)
            for place, answer in zip(batch, found, strict=True):
                answers[place] = answer
    return answers


def _batch_size(shape: tuple[int, int], device: str) -> int:
    free, _ = torch.cuda.mem_get_info(device)
    m, n = shape
    return max(1, min(_BATCH, int(_SHARE * free / (_COPIES * 4 * m * n))))
