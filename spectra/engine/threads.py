"""How many threads small linear algebra uses: one. Threads that wait for each other on a busy machine have made
small decompositions hundreds of times slower, and cost more than they save below a few hundred rows."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
_SMALL = 512  # smaller dimension of a matrix up to which one thread does


@contextmanager
def one_thread(wanted: bool = True) -> Iterator[None]:
    """Run torch on one thread inside the block, where wanted."""
    kept = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(kept)


def suited_to(shape: tuple[int, ...]) -> AbstractContextManager[None]:
    """Run torch on as many threads inside the block as matrices of this shape make good use of."""
    return one_thread(min(shape) <= _SMALL)


def side_by_side(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Apply a function that spends its time in torch to every item (matrix of a batch), each on a thread of its own."""
    kept, items = torch.get_num_threads(), list(items)
    with (
        one_thread(),
        ThreadPoolExecutor(min(kept, max(len(items), 1)), initializer=torch.set_num_threads, initargs=(1,)) as pool,
    ):
        return list(pool.map(function, items))
