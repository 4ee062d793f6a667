"""SP303: a rank that is rounding noise."""

import statistics
from typing import TYPE_CHECKING

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.findings.half_precision import MOST, in_half_precision, severity
from spectra.text import count, listing, percent

if TYPE_CHECKING:
    from spectra.metrics.ranks import Ranks

_ABOVE = 0.5


def _is_rounding(rank: "Ranks | None") -> bool:
    if rank is None or rank.above_floor is None:
        return False
    return rank.interval("above_floor")[1] < _ABOVE * rank.interval("effective")[0]


def _check(evidence: Evidence) -> list[Raised]:
    known = in_half_precision(evidence, dense=True)
    rows = [layer for layer in known if _is_rounding(layer.rank)]
    if not rows:
        return []
    effective = statistics.median(layer.rank.effective for layer in rows if layer.rank)
    above = statistics.median(number for layer in rows if layer.rank and (number := layer.rank.above_floor) is not None)
    dtypes = listing(sorted({layer.floor.dtype for layer in rows if layer.floor}))
    return [
        Raised(
            severity(rows, known),
            f"The effective rank cannot be told from rounding in {len(rows)} of "
            f"{count(len(known), 'matrix', 'matrices')} stored in {dtypes}: it is {effective:.0f}, but only "
            f"{above:.0f} singular values stand above what storing alone makes (medians).",
            "Read `above_floor` instead of the effective rank, or compare base and fine-tune both in float32.",
            rows,
            {"median_effective": effective, "median_above_floor": above},
        )
    ]


RANK_IS_ROUNDING = Rule(
    code="SP303",
    name="rank-is-rounding",
    summary="A rank that is rounding noise.",
    severities=("warning", "info"),
    meaning="A weight stored in bfloat16 or float16 carries rounding noise of full rank. In these matrices fewer "
    f"singular values of dW stand above that noise (`above_floor`) than {percent(_ABOVE)} of its effective rank, so "
    f"that the effective rank is mostly that of the noise. A warning where more than {percent(MOST)} of the matrices "
    "in half precision are such, else a remark. Of estimated ranks the ends of their intervals that lie nearer to "
    "each other are compared.",
    advice="Read `above_floor` instead of the effective rank, and the energy ranks with the same doubt; or save the "
    "fine-tune in float32 and compare it with the base in float32 (where training began from the file in half "
    "precision, a float32 copy of that file, which is exact).",
    doubts="`above_floor` counts too few rather than too many: a direction of the update below the noise is there, but "
    "cannot be seen. The noise is taken to be independent from entry to entry; the edge errs upwards, by "
    "5 to 12 % for normal weights and by 30 to 70 % where the scales of rows and columns vary. Where all weights lie "
    "within one power of two a value of the noise can stand above it, by 2 % at most.",
    source="noise sqrt(mean(ulp^2) / 12) an entry; edge sigma (sqrt m + sqrt n) of Marchenko and Pastur 1967, or the "
    "largest row and column sums of the variances, whichever is larger",
    check=_check,
)
