"""SP303 and SP304: a rank that is rounding noise, and an update that a merge would erase."""

import statistics

from spectra.findings.finding import Evidence, Raised, Rule, Severity
from spectra.metrics.layer import Layer
from spectra.text import count, listing, percent

_HALF_PRECISION = ("bfloat16", "float16")
_LOST = 0.5
_MOST = 0.5


def _half(evidence: Evidence, *, dense: bool) -> list[Layer]:
    return [
        layer
        for layer in evidence.measured
        if layer.floor is not None and layer.floor.dtype in _HALF_PRECISION and (layer.update_kind == "dense") == dense
    ]


def _severity(rows: list[Layer], known: list[Layer]) -> Severity:
    return "warning" if len(rows) > _MOST * len(known) else "info"


def _rank_is_rounding(evidence: Evidence) -> list[Raised]:
    known = _half(evidence, dense=True)
    rows = [layer for layer in known if layer.rank is not None and layer.rank.above_floor < layer.rank.effective / 2]
    if not rows:
        return []
    effective = statistics.median(layer.rank.effective for layer in rows if layer.rank)
    above = statistics.median(layer.rank.above_floor for layer in rows if layer.rank)
    dtypes = listing(sorted({layer.floor.dtype for layer in rows if layer.floor}))
    return [
        Raised(
            _severity(rows, known),
            f"The effective rank cannot be told from rounding in {len(rows)} of "
            f"{count(len(known), 'matrix', 'matrices')} stored in {dtypes}: it is {effective:.0f}, but only "
            f"{above:.0f} singular values stand above what storing alone makes (medians).",
            "Read `above_floor` instead of the effective rank, or save the fine-tune in float32.",
            rows,
            {"median_effective": effective, "median_above_floor": above},
        )
    ]


def _lost_in_merge(evidence: Evidence) -> list[Raised]:
    known = _half(evidence, dense=False)
    rows = [layer for layer in known if layer.floor is not None and layer.floor.lost > _LOST]
    if not rows:
        return []
    lost = statistics.median(layer.floor.lost for layer in rows if layer.floor)
    return [
        Raised(
            _severity(rows, known),
            f"Merged into the base's half precision, {percent(lost)} of the update's entries would vanish in "
            f"{len(rows)} of {count(len(known), 'matrix', 'matrices')} (median): they are smaller than half a rounding "
            "step of their weight.",
            "Keep the adapter unmerged, or merge into a float32 copy of the base.",
            rows,
            {"median_lost": lost},
        )
    ]


_SOURCE = "rounding error sqrt(mean(ulp^2) / 12) and its Marchenko-Pastur edge"
RANK_IS_ROUNDING = Rule("SP303", "rank-is-rounding", _SOURCE, _rank_is_rounding)
LOST_IN_MERGE = Rule("SP304", "lost-in-merge", _SOURCE, _lost_in_merge)
