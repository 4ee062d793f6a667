"""An order of models that several numbers agree on, and ties where they do not."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

ALIKE = 1.1  # two numbers whose ratio is below it do not tell models apart


class Number(NamedTuple):
    """One number of every model, known as an interval, and the one that it should be near to.

    low, high : [models]; target : its interval. threshold : the epsilon of a count that is one of a series.
    """

    what: str
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    target: tuple[float, float] = (0.0, 0.0)
    threshold: float | None = None

    def nearer(self) -> NDArray[np.bool_]:
        """Return [models, models]: whether the one is proven nearer to the target than the other.

        Not where their own numbers are alike: within a tenth of each other, or in intervals that leave it open.
        """
        apart = ALIKE * self.high[:, None] <= self.low[None, :]
        near = np.maximum(0.0, np.maximum(self.low - self.target[1], self.target[0] - self.high))
        far = np.maximum(self.high - self.target[0], self.target[1] - self.low)
        return (apart | apart.T) & (far[:, None] < near[None, :])


def ahead(numbers: Sequence[Number]) -> NDArray[np.bool_]:
    """Return [models, models]: whether some number says that the one is nearer, and none that the other is."""
    some = np.logical_or.reduce([number.nearer() for number in numbers])
    return np.asarray(some & ~some.T)


def places(before: NDArray[np.bool_], names: Sequence[str]) -> list[list[int]]:
    """Return the models as groups in order: each of a group stands before each of the groups after it.

    before : [models, models], as `ahead` returns it: of no pair both ways. The groups are the smallest of which that is
    true. They are the strong components of "is not behind", which any two models are joined by one way or the other:
    their order is that of wins less losses. Inside a group by that too, then by name.
    """
    score = before.sum(1, dtype=int) - before.sum(0, dtype=int)
    order = sorted(range(len(names)), key=lambda at: (-score[at], names[at]))
    groups: list[list[int]] = [[]]
    for position, at in enumerate(order):
        if position and before[np.ix_(order[:position], order[position:])].all():
            groups.append([])
        groups[-1].append(at)
    return groups
