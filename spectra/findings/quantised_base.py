"""SP111: the base is stored quantised, so that its numbers are those of the dequantised weights."""

from typing import TYPE_CHECKING

from spectra.findings.finding import Evidence, Raised, Rule, Severity
from spectra.loaders.header import FLOATS
from spectra.text import count, listing, show

if TYPE_CHECKING:
    from spectra.metrics.layer import Layer


def _check(evidence: Evidence) -> list[Raised]:
    rows = [layer for layer in evidence.layers if layer.base_storage.dtype not in FLOATS]
    if not rows:
        return []
    types = listing(dict.fromkeys(layer.base_storage.dtype for layer in rows))
    scheme = show(evidence.base_packed) if evidence.base_packed else types
    dense, exact = ([layer for layer in rows if (layer.update_kind == "dense") == full] for full in (True, False))
    return [
        *_raised("warning", dense, scheme, evidence, *_WITH_ERROR),
        *_raised("info", exact, scheme, evidence, *_EXACT),
    ]


_WITH_ERROR = (
    "these are compared with weights stored in full, so that dW holds the error of quantisation beside what training "
    "changed",
    "Give the base in the precision that it was trained in. Norms, ranks and intruders of these matrices are those of "
    "both together.",
)
_EXACT = (
    "the update is exact, and is compared with the dequantised weights",
    "An adapter trained on just this base (QLoRA) is at home here; merged into the weights in full precision it gives "
    "a model a little different from the one that was trained. One trained on those is here compared with a base a "
    "little different from its own.",
)


def _raised(
    severity: Severity, rows: "list[Layer]", scheme: str, evidence: Evidence, what: str, advice: str
) -> list[Raised]:
    if not rows:
        return []
    matrices = count(len(evidence.layers), "matrix", "matrices")
    text = f"The base is quantised ({scheme}) in {len(rows)} of {matrices}: {what}."
    numbers = {"scheme": scheme, "quantised": len(rows), "matrices": len(evidence.layers)}
    return [Raised(severity, text, advice, rows, numbers)]


QUANTISED_BASE = Rule(
    code="SP111",
    name="quantised-base",
    summary="The base is stored quantised, so that its numbers are those of the dequantised weights.",
    severities=("warning", "info"),
    meaning="The base is stored packed (NF4, GPTQ, AWQ, fp8, a quantised GGUF, ...) and was dequantised. For an "
    "adapter, a remark: dW comes from its factors and is exact, but W0, and all that compares with it, is the "
    "dequantised weight. For weights stored in full on the tuned side, a warning: dW = W - W0 holds the error of "
    "quantisation, which at 4 bits is often larger than what training changed.",
    advice="For a full fine-tune give the base in full precision. For an adapter merge into the base that it was "
    "trained on, or measure the task after merging into another.",
    doubts="No file says on which of the two an adapter was trained: QLoRA on the quantised base, most others on full "
    "precision. A model that was published quantised (fp8, MXFP4) has no other base.",
    source="Dettmers et al. 2023, arXiv:2305.14314 (QLoRA), section 3",
    check=_check,
)
