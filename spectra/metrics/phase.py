"""The phase curve of one matrix: its intruders at every scale of its update, and the scale at which they begin."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from spectra.engine.resemblance import Side
from spectra.metrics.intruders import Intruders
from spectra.metrics.row import MatrixRow
from spectra.metrics.threshold import Threshold
from spectra.text import show

TOLERANCE = 1e-4
_SMALLEST = 1e-6
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class SideCurve:
    """Verdicts and similarities of the leading directions of one side, one entry a scale.

    count = degenerate + rotated + new, as in `Intruders`. similarity : [scales][min(k, p)], the largest |cos| with
    any base direction. sigma : singular values of `W0 + s dW`.
    """

    side: Side
    count: tuple[int, ...]
    degenerate: tuple[int, ...]
    rotated: tuple[int, ...]
    new: tuple[int, ...]
    similarity: tuple[tuple[float, ...], ...]
    sigma: tuple[tuple[float, ...], ...]


def side_curve(verdicts: Sequence[Intruders]) -> SideCurve:
    """Gather the verdicts of one side at one scale after the other."""
    return SideCurve(
        side=verdicts[0].side,
        count=tuple(one.count for one in verdicts),
        degenerate=tuple(one.degenerate for one in verdicts),
        rotated=tuple(one.rotated for one in verdicts),
        new=tuple(one.new for one in verdicts),
        similarity=tuple(one.similarity for one in verdicts),
        sigma=tuple(one.sigma for one in verdicts),
    )


@dataclass(frozen=True, repr=False)
class PhaseCurve(MatrixRow):
    """What one matrix does as its update is scaled. As a mapping it reads like its JSON.

    scales : ascending, 0 and 1 among them. sides : a curve for each side asked for; none where the status is not "ok".
    critical : the smallest scale found at which some direction is rotated or new, None where there is none up to the
    largest scale. Degenerate ones do not count: a tie of the base explains them at any scale.
    bracket : (low, high), the scales between which it lies: none at low, some at high = critical.
    intervals : the stretches of scale with rotated or new directions; their ends are scales of the grid but for the
    first, which begins at critical. More than one means that they vanish and enter again.
    law : the predicted threshold beside it, None where W0 has no more than k values.
    """

    method: str
    update_kind: str
    scales: tuple[float, ...]
    sides: tuple[SideCurve, ...] = ()
    bracket: Interval | None = None
    intervals: tuple[Interval, ...] = ()
    law: Threshold | None = None
    notes: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        m, n = self.shape
        if not self.ok:
            return f"<PhaseCurve {show(self.key)} {m} x {n}: {self.status}>"
        begins = "no intruders" if self.critical is None else f"intruders from scale {self.critical:.4g}"
        return f"<PhaseCurve {show(self.key)} {m} x {n}: {begins}>"

    @property
    def critical(self) -> float | None:
        return self.bracket[1] if self.bracket else None

    @property
    def budget(self) -> float | None:
        """The largest scale shown to be below the first crossing: the largest of all where there is none."""
        if not self.ok:
            return None
        return self.bracket[0] if self.bracket else self.scales[-1]

    @property
    def error(self) -> float | None:
        """The law's critical scale over the exact one, None where either is missing."""
        return self.law.critical / self.critical if self.law and self.critical else None

    def total(self, kind: str) -> tuple[int, ...]:
        """Return "count", "degenerate", "rotated" or "new" at every scale, over the sides asked for."""
        each = [getattr(side, kind) for side in self.sides]
        return tuple(map(sum, zip(*each, strict=True))) if each else (0,) * len(self.scales)

    @property
    def real(self) -> tuple[int, ...]:
        """Rotated and new directions at every scale."""
        return tuple(map(sum, zip(self.total("rotated"), self.total("new"), strict=True)))

    def at(self, scale: float, kind: str = "count") -> int:
        """Return the number of intruders of one kind at one of the scales."""
        return self.total(kind)[self.scales.index(scale)]

    def least_similarity(self) -> tuple[float, ...]:
        """Return the smallest similarity of any leading direction at every scale."""
        return tuple(
            min((value for side in self.sides for value in side.similarity[at]), default=1.0)
            for at in range(len(self.scales))
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data, in the JSON schema's words."""
        curves = {side.side: asdict(side) for side in self.sides}
        for curve in curves.values():
            del curve["side"]
        return {
            **self.head(),
            "method": self.method,
            "update": {"kind": self.update_kind},
            "critical": self.critical,
            "bracket": list(self.bracket) if self.bracket else None,
            "budget": self.budget,
            "intervals": [list(interval) for interval in self.intervals],
            "law": self.law.to_dict() if self.law else None,
            "law_over_exact": self.error,
            "curves": curves,
            "notes": list(self.notes),
        }

    def __hash__(self) -> int:
        return hash((self.key, self.index))


def first_crossing(scales: Sequence[float], real: Sequence[int]) -> Interval | None:
    """Return the neighbouring scales between which the count first rises above zero, None where it never does.

    scales : ascending from 0, where the count is zero because W is W0.
    """
    for low, high, there in zip(scales, scales[1:], real[1:], strict=False):
        if there:
            return low, high
    return None


def bisect(bracket: Interval, probe: Callable[[float], bool | None], tolerance: float = TOLERANCE) -> Interval:
    """Narrow a bracket of the first crossing until it is `tolerance` of its upper end wide.

    probe : whether there are intruders at a scale, None where that stays undecided: the bracket is then as narrow
    as can be told. Below 1e-6 no scale is tried.

    Notes
    -----
    The count is not monotone: between two scales of the grid it may rise and fall unseen. What is found is a
    crossing between the ends of the bracket, the smallest that the grid shows.
    """
    low, high = bracket
    while high - low > max(tolerance * high, _SMALLEST):
        middle = (low + high) / 2
        there = probe(middle)
        if there is None:
            break
        low, high = (low, middle) if there else (middle, high)
    return low, high


def intervals(scales: Sequence[float], real: Sequence[int], bracket: Interval | None) -> tuple[Interval, ...]:
    """Return the stretches of scale with intruders, the first from the upper end of the bracket."""
    found: list[Interval] = []
    inside = False
    for scale, there in zip(scales, real, strict=True):
        if there and inside:
            found[-1] = found[-1][0], scale
        elif there:
            found.append((scale if found or bracket is None else bracket[1], scale))
        inside = bool(there)
    return tuple(found)
