"""SP112: base and tuned are stored in different precisions, so that their difference may hold rounding."""

import math
import statistics
from typing import TYPE_CHECKING

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.findings.half_precision import HALF_PRECISION
from spectra.loaders.header import FLOATS
from spectra.text import count, listing, percent

if TYPE_CHECKING:
    from spectra.metrics.layer import Layer

_NOISE = 0.1  # of ||dW||: 1 % of its energy


def _check(evidence: Evidence) -> list[Raised]:
    stored = [layer for layer in evidence.measured if layer.update_kind == "dense"]
    packed = [layer for layer in stored if layer.update_storage.dtype not in FLOATS]
    return [*_packed(packed, len(stored)), *_rounded([layer for layer in stored if _differs(layer)], len(stored))]


def _differs(layer: "Layer") -> bool:
    types = {layer.base_storage.dtype, layer.update_storage.dtype}
    return len(types) > 1 and types <= set(FLOATS) and not types.isdisjoint(HALF_PRECISION)


def _packed(rows: "list[Layer]", stored: int) -> list[Raised]:
    if not rows:
        return []
    types = listing(dict.fromkeys(layer.update_storage.dtype for layer in rows))
    return [
        Raised(
            "warning",
            f"The tuned side of {len(rows)} of {count(stored, 'matrix', 'matrices')} is stored quantised ({types}): "
            "dW holds the error of quantisation beside what training changed.",
            "Give the tuned model as it was before quantisation.",
            rows,
            {"quantised": len(rows), "matrices": stored},
        )
    ]


def _rounded(rows: "list[Layer]", stored: int) -> list[Raised]:
    shares = [share for layer in rows if (share := _noise(layer)) is not None]
    if not shares:
        return []
    share, first = statistics.median(shares), rows[0]
    before, after = first.base_storage.dtype, first.update_storage.dtype
    coarser = first.floor.dtype if first.floor else after
    what = f"The base is stored in {before} and the tuned model in {after}"
    where = f"in {len(rows)} of {count(stored, 'matrix', 'matrices')}"
    size = f"rounding to {coarser} makes {percent(share)} of ||dW|| (median)"
    numbers = {"base": before, "tuned": after, "median_noise": share, "rows": len(rows), "matrices": stored}
    if coarser == after:
        text = f"{what} {where}: every entry of W was rounded, and {size}."
        advice = "Compare with the tuned weights before they were rounded; `above_floor` counts what stands out."
        return [Raised("warning" if share > _NOISE else "info", text, advice, rows, numbers)]
    text = f"{what} {where}. That adds nothing if training began from this very file; from a finer one, {size}."
    return [Raised("info", text, "Check in which precision the base was loaded for training.", rows, numbers)]


def _noise(layer: "Layer") -> float | None:
    """Return the rounding error of the coarser dtype over ||dW||, both as Frobenius norms."""
    if layer.floor is None or layer.norm is None:
        return None
    m, n = layer.shape
    return layer.floor.sigma * math.sqrt(m * n) / layer.norm.update


PRECISION_DIFFERS = Rule(
    code="SP112",
    name="precision-differs",
    summary="Base and tuned are stored in different precisions, so that their difference may hold rounding.",
    severities=("warning", "info"),
    meaning="Weights stored in full on both sides have different dtypes, one of them half precision or quantised. "
    "Where the tuned side is the coarser, every entry of W was rounded, those that training left alone too: a warning "
    f"where that rounding makes more than {percent(_NOISE)} of ||dW||, or where the tuned side is quantised, else a "
    "remark. Where the base is the coarser, as in a float32 fine-tune of a bfloat16 base, nothing is lost if training "
    "began from just this file: a remark.",
    advice="Compare files of one precision: the fine-tune before it was rounded, or the base as it was loaded for "
    "training. Else read the rank above the rounding floor.",
    doubts="The size of rounding is what storing in that dtype makes on average, not what it made here. Two files of "
    "one dtype can hold rounding as well: see SP303. A header that names the wrong dtype looks like this too (SP106).",
    source="rounding error of one entry sqrt(mean(ulp(w)^2) / 12), as a Frobenius norm over ||dW||",
    check=_check,
)
