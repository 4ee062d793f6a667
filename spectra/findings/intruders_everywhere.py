"""SP204: intruder dimensions in nearly every matrix."""

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.findings.intruder_counts import MANY, NEARLY_ALL, SEVERAL, intruder_counts, measure_or_lessen
from spectra.text import percent


def _check(evidence: Evidence) -> list[Raised]:
    found = intruder_counts(evidence)
    if not found.everywhere:
        return []
    return [found.raised(f"in {len(found.rows)} of {len(found.sides)} matrices", measure_or_lessen(evidence))]


INTRUDERS_EVERYWHERE = Rule(
    code="SP204",
    name="intruders-everywhere",
    summary="Intruder dimensions sit in nearly every matrix.",
    severities=("warning", "info"),
    meaning=f"At least {percent(NEARLY_ALL)} of the matrices, of {SEVERAL} or more, have intruders, and no kind of "
    f"module and no block has most of them (SP203). SP201 says what an intruder is. A warning where {percent(MANY)} "
    "of all leading directions are intruders, else a remark.",
    advice="The update as a whole is strong beside its base: its scale, learning rate or number of steps. A smaller "
    "scale leaves fewer, and `spectra sweep` says from which scale on they appear; the paper finds fewer at a high "
    "rank with alpha = 2r or rsLoRA. If forgetting matters, measure it on the pre-training task.",
    doubts="As for SP201. One intruder in each matrix is everywhere too: see the share of the leading directions.",
    source="Shuttleworth et al. 2024, arXiv:2410.21228v3, Definition 3.1 and sections 4 and 5; the thresholds are "
    "this tool's",
    check=_check,
)
