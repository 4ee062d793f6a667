"""How well the threshold law did: its critical scales against the exact ones, over the matrices of one model."""

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from spectra.metrics.phase import PhaseCurve

_FACTOR = 2.0


@dataclass(frozen=True, slots=True)
class Agreement:
    """The law beside the phase curves.

    compared : matrices with a crossing in the range swept and a law; within : those whose predicted scale is at most a
    factor of two off. ratio : median of predicted over exact. missed : crossings found at scales that the law puts
    beyond the range; invented : matrices without one, for which it predicted one. auc : the chance that the law ranks
    a matrix with intruders at scale 1 before one without, None where there are not both.
    """

    compared: int
    within: int
    ratio: float | None
    missed: int
    invented: int
    auc: float | None

    @property
    def share(self) -> float | None:
        """Share of the compared matrices within a factor of two."""
        return self.within / self.compared if self.compared else None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "share": self.share}


def agreement(rows: Sequence[PhaseCurve]) -> Agreement:
    """Judge the law by the curves that were measured."""
    known = [(row, row.law.critical) for row in rows if row.ok and row.law is not None]
    ratios = [row.error for row, _ in known if row.error is not None]
    return Agreement(
        compared=len(ratios),
        within=sum(1 / _FACTOR <= ratio <= _FACTOR for ratio in ratios),
        ratio=statistics.median(ratios) if ratios else None,
        missed=sum(row.critical is not None and predicted > row.scales[-1] for row, predicted in known),
        invented=sum(row.critical is None and predicted <= row.scales[-1] for row, predicted in known),
        auc=_auc(
            [predicted for row, predicted in known if row.real[row.scales.index(1.0)]],
            [predicted for row, predicted in known if not row.real[row.scales.index(1.0)]],
        ),
    )


def _auc(early: Sequence[float], late: Sequence[float]) -> float | None:
    """The chance that one of `early` lies below one of `late`; ties count half."""
    if not early or not late:
        return None
    won = sum((one < other) + (one == other) / 2 for one in early for other in late)
    return won / (len(early) * len(late))
