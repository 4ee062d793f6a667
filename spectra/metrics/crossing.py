"""The first crossing: the smallest scale found at which a leading direction of `W0 + s dW` is an intruder.

Singular vectors turn steadily with s but where two singular values come near each other: there the two vectors trade
places within a short stretch of scale, and midway each is less like the base than at either end. A grid steps over
such stretches. So neighbouring scales are compared: where a vector that turns by the shortest way from the one place
to the other might pass below epsilon, the scale between them is looked at too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from spectra.engine.decomposition import resolution
from spectra.engine.resemblance import Resemblance
from spectra.metrics.intruders import Intruders

TOLERANCE = 1e-4  # of a scale: how closely a crossing is bracketed, and the shortest stretch looked into
MOST_SCALES = 300  # looked at for one matrix beyond those asked for
_SMALLEST = 1e-6
_STEP, _SHARE = 0.2, 0.1  # between scales that are always looked at: absolute, and of the scale where that is more
_DIGITS = 6  # of a scale tried: a short decimal can be written as an alpha without rounding
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen at one scale.

    intrudes : whether some leading direction is rotated or new. cosines : of each side [q, j], |cos| of its leading
    directions with those of the base.
    """

    intrudes: bool
    cosines: tuple[torch.Tensor, ...]


def sight(resemblances: Sequence[Resemblance], verdicts: Sequence[Intruders], ties: torch.Tensor) -> Sight:
    """Return what the verdicts on each side say, and where the leading directions lie.

    ties : of each base direction the number of its cluster. Directions of a cluster that explains a likeness (see
    `Intruders`) count as one: a vector that turns among them goes nowhere. Those of W whose value is zero to rounding
    are left out.
    """
    return Sight(
        any(verdict.rotated or verdict.new for verdict in verdicts),
        tuple(_joined(side, verdict, ties) for side, verdict in zip(resemblances, verdicts, strict=True)),
    )


def _joined(side: Resemblance, verdict: Intruders, ties: torch.Tensor) -> torch.Tensor:
    there = sum(value > resolution(verdict.sigma[0], side.shape) for value in verdict.sigma)
    squares, alone = side.cosines[:, :there].square(), len(ties) + torch.arange(len(ties))
    small = torch.bincount(ties)[ties] <= verdict.epsilon**2 * side.dimension
    place = torch.where(small, ties, alone)
    return squares.new_zeros(2 * len(ties), there).index_add_(0, place, squares).clamp_max(1).sqrt()


def least_between(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Bound from below how like the base each of j vectors stays as it turns from one place to another. [j]

    one, other : [q, j], |cos| with the base's directions at both ends. A vector at the angles a and b from direction
    i at the ends, that turns by t in all, is never farther from it than `(a + b + t) / 2`; t is taken as the angle
    between the ends, what lies outside these q directions as unturned.

    Notes
    -----
    That the way is the shortest is exact where two vectors trade places, an assumption elsewhere: halving the
    stretches tests it.
    """
    leading = min(one.shape[1], other.shape[1])
    one, other = one[:, :leading], other[:, :leading]
    outside = (1 - one.square().sum(0)).clamp_min(0) * (1 - other.square().sum(0)).clamp_min(0)
    turn = ((one * other).sum(0) + outside.sqrt()).clamp_max(1).arccos()
    nearest = (one.arccos() + other.arccos()).amin(0)
    return ((nearest + turn) / 2).cos()


def steps_to(last: float) -> list[float]:
    """Return the scales from 0 to the last that are always looked at: every 0.2, above 2 every 10 % of the scale."""
    found = [0.0]
    while found[-1] < last:
        found.append(min(last, round(found[-1] + max(_STEP, _SHARE * found[-1]), _DIGITS)))
    return found


class Search:
    """The search for the first crossing of one matrix, from scale 0 upwards.

    look : what is seen at a scale, None where that stays undecided; known : what has been seen already, at scale 0
    too. seen : everything seen. resolution : the longest stretch below the crossing that might hide an earlier one and
    was not looked into, 0 where there is none.
    """

    def __init__(
        self, look: Callable[[float], Sight | None], known: Mapping[float, Sight], epsilon: float, *,
        tolerance: float = TOLERANCE, most: int = MOST_SCALES,
    ) -> None:  # fmt: skip
        self._look, self._epsilon, self._tolerance = look, epsilon, tolerance
        self.seen: dict[float, Sight | None] = dict(known)
        self._most = len(self.seen) + most
        self.resolution = 0.0

    @property
    def exhausted(self) -> bool:
        """Whether as many scales were looked at as may be: from there on only a crossing that was met is narrowed."""
        return len(self.seen) >= self._most

    def first(self, scales: Sequence[float]) -> Interval | None:
        """Return (low, high) about the first crossing: no intruder at low, some at high; None where none is found.

        scales : ascending from 0, where W is W0. Neighbours with a crossing between them are halved until they are
        1e-4 of the upper one apart, or no scale between them is decided; so are those before it between which a
        direction might pass below epsilon.
        """
        low = scales[0]
        one = self._at(low)
        for high in scales[1:]:
            other = None if self.exhausted and high not in self.seen else self._at(high)
            if one is None or other is None:
                continue
            found = self._between(low, high, one, other)
            if found is not None:
                return found
            low, one = high, other
        return None

    def _at(self, scale: float) -> Sight | None:
        if scale not in self.seen:
            self.seen[scale] = self._look(scale)
        return self.seen[scale]

    def _between(self, low: float, high: float, one: Sight, other: Sight) -> Interval | None:
        """Return the first crossing between two scales, at the lower of which there is no intruder."""
        if not other.intrudes and not self._may_cross(one, other):
            return None
        middle = float(f"{(low + high) / 2:.{_DIGITS}g}")
        narrow = high - low <= max(self._tolerance * high, _SMALLEST)
        given_up = narrow or (self.exhausted and not other.intrudes)
        between = None if given_up else self._at(middle)
        if between is not None:
            return self._between(low, middle, one, between) or self._between(middle, high, between, other)
        if other.intrudes:
            return low, high
        self.resolution = max(self.resolution, high - low)
        return None

    def _may_cross(self, one: Sight, other: Sight) -> bool:
        sides = zip(one.cosines, other.cosines, strict=True)
        return any(bool((least_between(*ends) < self._epsilon).any()) for ends in sides)
