"""SP304: an update that a merge into half precision would erase."""

import statistics

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.findings.half_precision import MOST, in_half_precision, severity
from spectra.text import count, percent

_LOST = 0.5


def _check(evidence: Evidence) -> list[Raised]:
    known = in_half_precision(evidence, dense=False)
    rows = [layer for layer in known if layer.floor is not None and layer.floor.lost > _LOST]
    if not rows:
        return []
    lost = statistics.median(layer.floor.lost for layer in rows if layer.floor)
    return [
        Raised(
            severity(rows, known),
            f"Merged into the base's half precision, {percent(lost)} of the entries that the update moves would stay "
            f"as they are in {len(rows)} of {count(len(known), 'matrix', 'matrices')} (median): it moves them by less "
            "than half a rounding step.",
            "Keep the adapter unmerged, or merge into a float32 copy of the base.",
            rows,
            {"median_lost": lost},
        )
    ]


LOST_IN_MERGE = Rule(
    code="SP304",
    name="lost-in-merge",
    summary="An update that a merge into half precision would erase.",
    severities=("warning", "info"),
    meaning=f"The base is stored in bfloat16 or float16, and more than {percent(_LOST)} of the entries of dW that are "
    "not zero are smaller than half a rounding step of the weight they would be added to: a merge into that dtype "
    f"leaves those entries of the base as they are. A warning where more than {percent(MOST)} of the adapted matrices "
    "are such, else a remark.",
    advice="Serve the adapter unmerged, or merge into a float32 copy of the base and keep that.",
    doubts="The entries lost are the small ones: the share of the update's energy that is lost is smaller than the "
    "share of its entries. An adapter that is never merged loses nothing.",
    source="0 < |dW_ij| < ulp(W0_ij) / 2, ulp(w) = 2^(floor(log2 |w|) - t), t mantissa bits (bfloat16 7, float16 10)",
    check=_check,
)
