"""SP102: matrices that could not be measured."""

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.metrics.layer import FAILURES, NONFINITE
from spectra.text import count


def _check(evidence: Evidence) -> list[Raised]:
    found = []
    for status in FAILURES:
        rows = [layer for layer in evidence.layers if layer.status == status]
        if not rows:
            continue
        nonfinite = status == NONFINITE
        advice = (
            "Training diverged or the file is damaged: go back to the last checkpoint before it."
            if nonfinite
            else "The row gives the reason. Try --device cpu, or leave the matrix out with --exclude."
        )
        what = "holds NaN or infinity" if nonfinite else "could not be decomposed"
        text = f"{count(len(rows), 'matrix', 'matrices')} {what if len(rows) == 1 else what.replace('holds', 'hold')}."
        found.append(Raised("error", text, advice, rows, {"status": status, "rows": len(rows)}))
    return found


FAILED = Rule("SP102", "not-measured", "finiteness is checked before every decomposition", _check)
