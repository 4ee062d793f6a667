"""SP201: intruder dimensions are present, in some matrices of some kinds."""

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.findings.intruder_counts import FEW, MANY, IntruderCounts, intruder_counts, measure_or_lessen
from spectra.text import count, percent, show


def _check(evidence: Evidence) -> list[Raised]:
    found = intruder_counts(evidence)
    if not found.found or found.concentration or found.everywhere:
        return []
    matrices = count(len(found.sides), "matrix", "matrices")
    return [found.raised(f"in {len(found.rows)} of {matrices}, {_where(found)}", measure_or_lessen(evidence))]


def _where(found: IntruderCounts) -> str:
    modules = {layer.place.module for layer in found.rows}
    return f"all in {show(modules.pop())}" if len(modules) == 1 else f"spread over {len(modules)} kinds of module"


INTRUDERS = Rule(
    code="SP201",
    name="intruders",
    summary="Intruder dimensions sit in some matrices.",
    severities=("warning", "info"),
    meaning="Some leading singular vectors of the tuned weight have no like in the base: their largest |cosine| with "
    "all singular vectors of the base is below epsilon. Each is new (more than half of it lies outside the base's top "
    "space) or rotated (it is made of the base's leading directions); ties of the base's singular values, and "
    f"matrices so small that chance decides (SP202), are left out. A warning where {percent(MANY)} of all leading "
    f"directions are intruders, else a remark; below {100 * FEW:g} % they are called few. One of SP201, SP203 and "
    "SP204 is raised: this one where they neither sit in one place nor nearly everywhere.",
    advice="If forgetting matters, measure it on the pre-training task: the count is a hint, not a measurement. The "
    "paper finds fewer intruders at a high rank with alpha = 2r or rsLoRA; a smaller scale or learning rate leaves "
    "fewer too, and `spectra sweep` says from which scale on they appear.",
    doubts="The count depends on k and epsilon: read the sweep over both, and the margin. It saturates: a strong "
    "update has k intruders in every matrix, and then the energy share tells more. Whether intruders cause forgetting "
    "or come along with a strong update is disputed: for it, Xie, arXiv:2607.23711; against it, the review of the "
    "paper, OpenReview xp7B8rkh7L.",
    source="Shuttleworth et al. 2024, arXiv:2410.21228v3, Definition 3.1 and sections 4 and 5; new and rotated are "
    "this tool's",
    check=_check,
)
