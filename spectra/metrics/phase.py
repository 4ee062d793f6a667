"""The phase curve of one matrix: its intruders at every scale of its update, and the scale at which they begin."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from spectra.engine.resemblance import Side
from spectra.metrics.crossing import Interval
from spectra.metrics.intruders import Intruders
from spectra.metrics.row import MatrixRow
from spectra.metrics.threshold import Threshold
from spectra.text import show


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
    critical : the smallest scale found at which some direction is rotated or new, None where none is found up to the
    largest scale. Degenerate ones do not count: a tie of the base explains them at any scale. See `crossing.Search`.
    bracket : (low, high), the scales between which it lies: none at low, some at high = critical.
    resolution : the longest stretch of scale below it that might hide an earlier one and was not looked into, 0 where
    every leading direction was followed up to it.
    intervals : the stretches of scale with rotated or new directions, from the first scale looked at that has one to
    the last before one that has none; the first begins at critical. More than one: they vanish and enter again.
    law : the predicted threshold beside it, None where W0 has no more than k values.
    """

    method: str
    update_kind: str
    scales: tuple[float, ...]
    sides: tuple[SideCurve, ...] = ()
    bracket: Interval | None = None
    resolution: float = 0.0
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
        """The largest scale looked at below the first crossing: the largest of all where none was found."""
        if not self.ok:
            return None
        return self.bracket[0] if self.bracket else self.scales[-1]

    @property
    def error(self) -> float | None:
        """The law's critical scale over the one found, None where either is missing."""
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
            "resolution": self.resolution if self.ok else None,
            "budget": self.budget,
            "intervals": [list(interval) for interval in self.intervals],
            "law": self.law.to_dict() if self.law else None,
            "law_over_exact": self.error,
            "curves": curves,
            "notes": list(self.notes),
        }

    def __hash__(self) -> int:
        return hash((self.key, self.index))


def intervals(intrudes: Mapping[float, bool]) -> tuple[Interval, ...]:
    """Return the stretches of neighbouring scales with intruders.

    intrudes : whether there are any, at every scale looked at.
    """
    found: list[Interval] = []
    inside = False
    for scale, there in sorted(intrudes.items()):
        if there and inside:
            found[-1] = found[-1][0], scale
        elif there:
            found.append((scale, scale))
        inside = there
    return tuple(found)
