"""The phase curve of a model: intruders against the scale of its update, matrix by matrix and in total."""

import math
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Unpack

import torch

from spectra import table
from spectra.analysis.agreement import Agreement, agreement
from spectra.analysis.budget import alpha_pattern
from spectra.analysis.diagnosis import SCHEMA, provenance
from spectra.analysis.settings import Progress, Settings
from spectra.analysis.stream import BaseDecomposition, memory_of, nothing_to_measure, read_each, status_of
from spectra.engine import dense
from spectra.engine.choose import Decompositions
from spectra.engine.scales import Scaled
from spectra.engine.threads import suited_to
from spectra.errors import DecompositionError, InputError, UsageError
from spectra.loaders.options import Reading
from spectra.loaders.pairing import Pairs, open_pairs
from spectra.loaders.plan import Place, Skipped, TunedInfo
from spectra.loaders.source import Model
from spectra.metrics.crossing import Search, Sight, sight, steps_to
from spectra.metrics.intruders import Intruders, intruders, ties
from spectra.metrics.phase import PhaseCurve, intervals, side_curve
from spectra.metrics.status import FAILED, FAILURES, OK
from spectra.metrics.threshold import threshold
from spectra.text import show
from spectra.updates import WeightPair

SCALES = tuple(round(0.05 * step, 2) for step in range(41))
_MOST_SCALES = 1000
KINDS = ("count", "degenerate", "rotated", "new")


@dataclass(frozen=True)
class ModelSweep(table.Tabular):
    """The phase curves of one model.

    scales : ascending, 0 and 1 among them; rows : one `PhaseCurve` a matrix, in base order; skipped, provenance,
    info : as in a diagnosis. alphas : for each base key, the alpha of the adapter's modules.
    """

    scales: tuple[float, ...]
    rows: tuple[PhaseCurve, ...]
    skipped: tuple[Skipped, ...]
    provenance: dict[str, Any]
    info: TunedInfo
    alphas: Mapping[str, Mapping[str, float]] = field(default_factory=dict, repr=False)

    @property
    def failed(self) -> int:
        """Rows that could not be measured."""
        return sum(row.status in FAILURES for row in self.rows)

    @property
    def measured(self) -> list[PhaseCurve]:
        return [row for row in self.rows if row.ok]

    @property
    def law(self) -> Agreement:
        """How well the threshold law did."""
        return agreement(self.rows)

    def total(self, kind: str) -> tuple[int, ...]:
        """Return "count", "degenerate", "rotated" or "new" at every scale, over all matrices."""
        each = [row.total(kind) for row in self.measured]
        return tuple(map(sum, zip(*each, strict=True))) if each else (0,) * len(self.scales)

    @property
    def examined(self) -> int:
        """Leading directions compared at each scale."""
        return sum(len(side.similarity[0]) for row in self.measured for side in row.sides)

    def similarity(self) -> list[tuple[float, float]]:
        """Return the least and the median similarity of all leading directions at every scale."""
        found = []
        for at in range(len(self.scales)):
            every = [value for row in self.measured for side in row.sides for value in side.similarity[at]]
            found.append((min(every), statistics.median(every)) if every else (1.0, 1.0))
        return found

    def alpha_pattern(self, *, margin: float = 0.0) -> dict[str, float]:
        """Return PEFT's `alpha_pattern` that keeps every module below its first crossing. See `budget`."""
        return alpha_pattern(self.rows, self.alphas, margin=margin)

    @property
    def summary(self) -> dict[str, Any]:
        """The numbers read first."""
        rows, at_one = self.measured, self.scales.index(1.0)
        known = [row.critical for row in rows if row.critical is not None]
        return {
            "matrices": len(self.rows),
            "measured": len(rows),
            "failed": self.failed,
            "examined": self.examined,
            **{kind: self.total(kind)[at_one] for kind in KINDS},
            "crossed": len(known),
            "crossed_as_trained": sum(scale <= 1 for scale in known),
            "critical_least": min(known, default=None),
            "critical_median": statistics.median(known) if known else None,
            "re_entries": sum(len(row.intervals) > 1 for row in rows),
            "law": self.law.to_dict(),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the whole as plain data: JSON schema 1."""
        least, median = zip(*self.similarity(), strict=True)
        return {
            "schema": SCHEMA,
            "provenance": self.provenance,
            "summary": self.summary,
            "scales": list(self.scales),
            "total": {
                **{kind: list(self.total(kind)) for kind in KINDS},
                "similarity_least": list(least),
                "similarity_median": list(median),
            },
            "skipped": [skipped._asdict() for skipped in self.skipped],
            "layers": [row.to_dict() for row in self.rows],
        }

    def flat_rows(self) -> list[dict[str, Any]]:
        """Return the rows with the counts over all sides in place of the curves."""
        flat = []
        for row in self.rows:
            found = row.to_dict()
            del found["curves"]
            found["intervals"] = [f"{low:.4g}-{high:.4g}" for low, high in row.intervals]
            found["scales"] = list(self.scales)
            flat.append(found | {kind: list(row.total(kind)) for kind in KINDS})
        return flat


def require_scales(scales: Sequence[float]) -> tuple[float, ...]:
    """Return the scales ascending, with 0 (W is W0) and 1 (as trained) among them.

    Raises UsageError for one that is negative (that subtracts the update) or not finite, and for more than 1000.
    """
    for scale in scales:
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not math.isfinite(scale) or scale < 0:
            raise UsageError(
                f"a scale is {show(repr(scale), 40)}: scales are finite numbers from 0, 1 being as trained."
            )
    found = tuple(sorted({0.0, 1.0, *map(float, scales)}))
    if len(found) > _MOST_SCALES:
        raise UsageError(f"{len(found):,} scales are asked for: {_MOST_SCALES:,} are the most.")
    return found


def require_sweepable(settings: Settings) -> None:
    """Refuse the method that cannot follow an update over scales."""
    if settings.method == "certified":
        raise UsageError("a sweep decomposes each base matrix once: its method is auto, basis or exact, not certified.")


def sweep(
    base: Model,
    tuned: Model,
    *,
    scales: Sequence[float] = SCALES,
    settings: Settings | None = None,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> ModelSweep:
    """Follow the intruders of every matrix that `tuned` changes as its update is scaled. See `spectra.sweep`."""
    settings, grid = settings or Settings(), require_scales(scales)
    require_sweepable(settings)
    started = time.monotonic()
    with open_pairs(base, tuned, **reading) as pairs:
        return ModelSweep(
            scales=grid,
            rows=tuple(_rows(pairs, grid, settings, progress)),
            skipped=tuple(pairs.skipped),
            provenance=provenance(pairs, settings, time.monotonic() - started),
            info=pairs.info,
            alphas=pairs.alphas,
        )


def _rows(
    pairs: Pairs, scales: tuple[float, ...], settings: Settings, progress: Progress | None
) -> Iterator[PhaseCurve]:
    """Yield a row for every matrix that the model changes, in base order."""
    for place, found in read_each(pairs.places, lambda place: pairs.pair(*place), progress):
        if isinstance(found, InputError):
            yield _unread(pairs, place, scales, found)
        else:
            yield follow(found, scales, settings)


def _unread(pairs: Pairs, place: Place, scales: tuple[float, ...], fault: InputError) -> PhaseCurve:
    key, index = place
    base = pairs.base
    shape = base.layout(key).shape
    return PhaseCurve(key, base.name(key, index), index, shape, FAILED, str(fault), "none", "unread", scales)


def follow(pair: WeightPair, scales: tuple[float, ...], settings: Settings, *, search: bool = True) -> PhaseCurve:
    """Return the phase curve of one pair at scales as `require_scales` gives them; a fault is a row with a status.

    search : whether the first crossing is looked for; without it the row has no bracket and no intervals.
    """
    blank = PhaseCurve(
        pair.key, pair.name, pair.index, pair.shape, "", "", "none", pair.update.kind, scales, notes=pair.notes
    )
    try:
        with suited_to(pair.shape):
            return _followed(pair, blank, settings, search)
    except (DecompositionError, MemoryError, RuntimeError) as fault:
        status, reason = status_of(fault, memory_of(pair, settings.method))
        return replace(blank, status=status, reason=reason)


def _followed(pair: WeightPair, blank: PhaseCurve, settings: Settings, search: bool) -> PhaseCurve:
    nothing = nothing_to_measure(pair)
    if nothing is not None:
        return replace(blank, status=nothing[0], reason=nothing[1])
    kept = BaseDecomposition(settings)
    base = kept.of(pair)
    if base is None:
        base = dense.svd(pair.base, device=settings.device)
        kept.keep(pair, base)
    blank = replace(blank, notes=(*blank.notes, *kept.notes))
    return _curve(blank, Scaled(pair, base, settings.request), settings, search)


def _curve(blank: PhaseCurve, scaled: Scaled, settings: Settings, search: bool) -> PhaseCurve:
    """Fill in a row: the verdicts at every scale and the law, then the first crossing."""
    found = scaled.at(blank.scales)
    verdicts = [_verdicts(one, settings) for one in found]
    row = replace(
        blank,
        status=OK,
        method=scaled.method,
        sides=tuple(side_curve(each) for each in zip(*verdicts, strict=True)),
        law=threshold(found[0].base_values, blank.shape, float(scaled.values[0]), k=settings.k),
        notes=(*blank.notes, *dict.fromkeys(f"engine: {one.reason}" for one in found[1:])),
    )
    if not search:
        return row
    clusters = ties(found[0].base_values, blank.shape)
    known = {
        scale: sight(one.resemblances, sides, clusters)
        for scale, one, sides in zip(blank.scales, found, verdicts, strict=True)
    }
    return _with_crossing(row, Search(lambda scale: _look(scaled, scale, clusters, settings), known, settings.epsilon))


def _with_crossing(row: PhaseCurve, search: Search) -> PhaseCurve:
    bracket = search.first(sorted({*row.scales, *steps_to(row.scales[-1])}))
    ended = (f"the search for its first intruder ended after {len(search.seen)} scales",) if search.exhausted else ()
    return replace(
        row,
        bracket=bracket,
        resolution=search.resolution,
        intervals=intervals({scale: seen.intrudes for scale, seen in search.seen.items() if seen is not None}),
        notes=(*row.notes, *ended),
    )


def _verdicts(found: Decompositions, settings: Settings) -> tuple[Intruders, ...]:
    energy = float(found.update_values.double().square().sum())
    return tuple(
        intruders(side, found.tuned_values, found.moved, energy=energy, k=settings.k, epsilon=settings.epsilon)
        for side in found.resemblances
    )


def _look(scaled: Scaled, scale: float, clusters: torch.Tensor, settings: Settings) -> Sight | None:
    """Return what is seen at one scale, None where the engine leaves it undecided."""
    found = scaled.near_crossing(scale)
    return None if found is None else sight(found.resemblances, _verdicts(found, settings), clusters)
