"""SP402: DoRA's magnitude vector hardly moved, so that a plain LoRA would have done."""

import statistics
from typing import TYPE_CHECKING

from spectra.findings.almost_untrained import is_nearly_nothing
from spectra.findings.finding import Evidence, Raised, Rule
from spectra.text import count, percent

if TYPE_CHECKING:
    from spectra.metrics.layer import Layer

_SHARE = 0.01  # of the energy of the change: a tenth of its size
_ROUNDING = {"bfloat16": 2.0**-8, "float16": 2.0**-11}  # half a step of the magnitude vector, of its value


def _check(evidence: Evidence) -> list[Raised]:
    known = [
        layer
        for layer in evidence.measured
        if layer.update_kind == "rescaled" and layer.rank is not None and layer.rank.allotted
        if layer.magnitude is not None and not is_nearly_nothing(layer)
    ]
    rows = [layer for layer in known if _is_trivial(layer)]
    if not rows or len(rows) <= len(known) / 2:
        return []
    longest = max(layer.magnitude.largest for layer in rows if layer.magnitude)
    turned = statistics.median(layer.magnitude.dD for layer in rows if layer.magnitude)
    return [
        Raised(
            "info",
            f"DoRA's magnitude moved next to nothing in {len(rows)} of {count(len(known), 'matrix', 'matrices')}: no "
            f"row of W is more than {percent(longest)} longer or shorter than in W0, while rows turn by 1 - cos = "
            f"{turned:.1e} (median).",
            "Plain LoRA of the same rank would do much the same here, faster and mergeable without the base. Otherwise "
            "check that the magnitude vector was trained: it may be frozen, or its learning rate too small.",
            rows,
            {"largest": longest, "median_dD": turned, "rows": len(rows), "dora": len(known)},
        )
    ]


def _is_trivial(layer: "Layer") -> bool:
    """Whether even the row whose length changed most changed by rounding, or by far less than rows turn on average."""
    moved = layer.magnitude
    if moved is None:
        return False
    rounding = _ROUNDING.get(layer.update_storage.dtype, 0.0)
    return moved.largest <= rounding or moved.largest**2 <= _SHARE * 2 * moved.dD


TRIVIAL_MAGNITUDE = Rule(
    code="SP402",
    name="trivial-magnitude",
    summary="DoRA's magnitude vector hardly moved, so that a plain LoRA would have done.",
    severities=("info",),
    meaning="DoRA trains the length of each row of W apart from its direction. In more than half of its matrices no "
    "length changed by more than the rounding of the stored vector, or the square of the largest relative change is "
    f"at most {percent(_SHARE)} of 2 (1 - cos), the mean squared turn of a row: the change is all direction.",
    advice="Use plain LoRA, or check that the magnitude vectors were given to the optimiser.",
    doubts="DoRA also renormalises: LoRA of the same factors would lengthen the rows a little, in the second order of "
    "the update. DoRA over the columns of W (embeddings, an option of LyCORIS) is not judged.",
    source="Liu et al. 2024, arXiv:2402.09353 (DoRA), equation 5",
    check=_check,
)
