"""SP203: intruder dimensions sit in one kind of module or in one block."""

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.findings.intruder_counts import ENOUGH, LIFT, MAJORITY, MANY, intruder_counts
from spectra.text import percent


def _check(evidence: Evidence) -> list[Raised]:
    found = intruder_counts(evidence)
    group = found.concentration
    if group is None:
        return []
    advice = (
        f"Give {group.name} a smaller scale (alpha_pattern; `spectra sweep` proposes one) or leave it out of the "
        "targets, and see whether the task is still learnt. If forgetting matters, measure it."
        if evidence.is_adapter
        else f"Train {group.name} with a smaller learning rate, or freeze it, and see whether the task is still "
        "learnt. If forgetting matters, measure it."
    )
    where = f"{group.intruders} of them among the {group.examined} of {group.name}"
    return [found.raised(where, advice, place=group.name, in_place=group.intruders)]


INTRUDERS_CONCENTRATED = Rule(
    code="SP203",
    name="intruders-concentrated",
    summary="Intruder dimensions sit in one kind of module or in one block.",
    severities=("warning", "info"),
    meaning=f"More than {percent(MAJORITY)} of the intruders, and at least {ENOUGH}, sit in one kind of module or in "
    f"one block, where they are at least {LIFT} times as frequent as in the whole model. SP201 says what an intruder "
    f"is. A warning where {percent(MANY)} of all leading directions of the model are intruders, else a remark. Where "
    "several places hold most of them, the densest is named.",
    advice="The trouble has a place. For an adapter give that place a smaller scale (alpha_pattern, which `spectra "
    "sweep` proposes) or rank, or leave it out of the targets; for a full fine-tune a smaller learning rate, or "
    "freeze it. Then see whether the task is still learnt.",
    doubts="As for SP201. A place can hold most intruders because it does most of the work: what it learnt goes with "
    "them.",
    source="Shuttleworth et al. 2024, arXiv:2410.21228v3, Definition 3.1; the thresholds are this tool's",
    check=_check,
)
