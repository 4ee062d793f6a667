"""SP102: weights that are not numbers."""

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.metrics.status import NONFINITE
from spectra.text import count


def _check(evidence: Evidence) -> list[Raised]:
    rows = evidence.having(NONFINITE)
    if not rows:
        return []
    holds = "holds" if len(rows) == 1 else "hold"
    return [
        Raised(
            "error",
            f"{count(len(rows), 'matrix', 'matrices')} of {len(evidence.layers)} {holds} NaN or infinity.",
            "Training diverged or the file is damaged: go back to the last checkpoint before it.",
            rows,
            {"rows": len(rows), "matrices": len(evidence.layers)},
        )
    ]


NON_FINITE = Rule(
    code="SP102",
    name="non-finite",
    summary="Weights that hold NaN or infinity.",
    severities=("error",),
    meaning="The base or the tuned weight of these matrices holds NaN or infinity, so that it has no singular values. "
    "One such entry spoils every output of its layer.",
    advice="Training diverged, or the file is damaged. Go back to the last checkpoint before it, and compare the hash "
    "of the file with that of where it came from. The row says in which of the two weights it is.",
    doubts="There is little to doubt: every entry is read before anything is decomposed. A weight that would overflow "
    "in another dtype (above 65504 in float16) is no infinity in this file and is not meant.",
    source="finiteness of every entry, checked before each decomposition",
    check=_check,
)
