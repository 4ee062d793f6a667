"""SP108: matrices that have no numbers because the machine or an algorithm gave up on them."""

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.metrics.status import FAILED, OOM
from spectra.text import count

_WHY = {
    FAILED: ("could not be decomposed", "Try --device cpu or --method exact, or leave them out with --exclude."),
    OOM: ("did not fit into memory", "Try --device cpu or --method certified, or leave them out with --exclude."),
}


def _check(evidence: Evidence) -> list[Raised]:
    found = []
    for status, (what, advice) in _WHY.items():
        rows = evidence.having(status)
        if rows:
            text = f"{count(len(rows), 'matrix', 'matrices')} of {len(evidence.layers)} {what}."
            numbers = {"status": status, "rows": len(rows), "matrices": len(evidence.layers)}
            found.append(Raised("error", text, f"Each row gives its reason. {advice}", rows, numbers))
    return found


NOT_MEASURED = Rule(
    code="SP108",
    name="not-measured",
    summary="Matrices that have no numbers because the machine or an algorithm gave up on them.",
    severities=("error",),
    meaning="Some matrices have no numbers: every step of the decomposition failed on them, or they did not fit into "
    "memory. All other numbers of the report are of the matrices that were measured, and of those alone.",
    advice="Read the reason in the row. Try another device or method (--device cpu; --method certified needs the "
    "least memory), or leave the matrices out with --exclude, so that the report says so.",
    doubts="It says nothing of the model: it is about this run on this machine.",
    source="the status of the row: failed, or oom",
    check=_check,
)
