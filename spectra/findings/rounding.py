"""SP303 and SP304: a rank that is rounding noise, and an update that a merge would erase."""

import statistics

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.metrics.layer import Layer
from spectra.text import count, percent

_HALF_PRECISION = ("bfloat16", "float16")
_LOST = 0.5


def _half(evidence: Evidence, *, dense: bool) -> list[Layer]:
    return [
        layer
        for layer in evidence.measured
        if layer.floor is not None and layer.floor.dtype in _HALF_PRECISION and (layer.update_kind == "dense") == dense
    ]


def _rank_is_rounding(evidence: Evidence) -> list[Raised]:
    rows = [
        layer
        for layer in _half(evidence, dense=True)
        if layer.rank is not None and layer.rank.above_floor < layer.rank.effective / 2
    ]
    if not rows:
        return []
    effective = statistics.median(layer.rank.effective for layer in rows if layer.rank)
    above = statistics.median(layer.rank.above_floor for layer in rows if layer.rank)
    return [
        Raised(
            "warning",
            f"In {count(len(rows), 'matrix', 'matrices')} the effective rank (median {effective:.0f}) is mostly "
            f"rounding: only {above:.0f} singular values stand above the floor of the stored dtype.",
            "Read `above_floor` instead of the effective rank, or save the fine-tune in float32.",
            rows,
            {"median_effective": effective, "median_above_floor": above},
        )
    ]


def _lost_in_merge(evidence: Evidence) -> list[Raised]:
    rows = [layer for layer in _half(evidence, dense=False) if layer.floor is not None and layer.floor.lost > _LOST]
    if not rows:
        return []
    lost = statistics.median(layer.floor.lost for layer in rows if layer.floor)
    return [
        Raised(
            "warning",
            f"Merged into the base's half precision, {percent(lost)} of the entries of the update (median of "
            f"{count(len(rows), 'matrix', 'matrices')}) are smaller than half a rounding step and vanish.",
            "Keep the adapter unmerged, or merge into a float32 copy of the base.",
            rows,
            {"median_lost": lost},
        )
    ]


_SOURCE = "rounding error sqrt(mean(ulp^2) / 12) and its Marchenko-Pastur edge"
RANK_IS_ROUNDING = Rule("SP303", "rank-is-rounding", _SOURCE, _rank_is_rounding)
LOST_IN_MERGE = Rule("SP304", "lost-in-merge", _SOURCE, _lost_in_merge)
