"""The matrices that half precision may spoil: what SP303 and SP304 look at."""

from typing import TYPE_CHECKING

from spectra.findings.finding import Evidence, Severity

if TYPE_CHECKING:
    from spectra.metrics.layer import Layer

HALF_PRECISION = ("bfloat16", "float16")
MOST = 0.5


def in_half_precision(evidence: Evidence, *, dense: bool) -> "list[Layer]":
    """The rows rounded to half precision, of weights stored in full (dense) or of adapters kept apart from them."""
    return [
        layer
        for layer in evidence.measured
        if layer.floor is not None and layer.floor.dtype in HALF_PRECISION and (layer.update_kind == "dense") == dense
    ]


def severity(rows: "list[Layer]", known: "list[Layer]") -> Severity:
    """A warning where more than half of the matrices are concerned, else a remark."""
    return "warning" if len(rows) > MOST * len(known) else "info"
