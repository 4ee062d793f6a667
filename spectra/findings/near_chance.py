"""SP202: a count that stands where chance alone would put it."""

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.findings.intruder_counts import NEAR, is_near_chance, possible
from spectra.text import count, percent

_MOST = 0.5


def _check(evidence: Evidence) -> list[Raised]:
    """Speak where it matters: some of the count comes from such matrices, or most matrices are such."""
    epsilon, judged = evidence.epsilon, [layer for layer in evidence.measured if possible(layer, evidence.epsilon)]
    near = [layer for layer in judged if any(is_near_chance(side, epsilon) for side in layer.intruders)]
    counted = sum(side.count for layer in near for side in layer.intruders if is_near_chance(side, epsilon))
    if not near or not (counted or len(near) > _MOST * len(judged)):
        return []
    least = min(side.null for layer in near for side in layer.intruders if is_near_chance(side, epsilon))
    total = sum(layer.found for layer in evidence.measured)
    from_them = f" {counted} of the {count(total, 'intruder')} stand there." if counted else ""
    return [
        Raised(
            "info",
            f"{count(len(near), 'matrix is', 'matrices are')} so small that a random direction has a similarity of "
            f"{least:.2f} or more to the base: at epsilon = {epsilon:g} a count there says little.{from_them}",
            "Read the sweep over epsilon and the novelty instead of the count.",
            near,
            {"least_null": least, "epsilon": epsilon, "intruders": counted},
        )
    ]


NEAR_CHANCE = Rule(
    code="SP202",
    name="near-chance",
    summary="Intruders counted in matrices so small that chance alone explains them.",
    severities=("info",),
    meaning=f"In these matrices the similarity that a random direction has to the base is {percent(NEAR)} of epsilon "
    "or more, so that chance decides what falls below epsilon. Said where some of the count comes from such matrices, "
    f"or where more than {percent(_MOST)} of the matrices are such. They are left out of SP201, SP203 and SP204. A "
    "matrix in which no direction can fall below epsilon is not counted: against a complete basis of R^m no "
    "similarity is below 1 / sqrt(m).",
    advice="Read the sweep over epsilon and the novelty instead of the count, or choose a smaller epsilon and compare "
    "with the `null` of each row.",
    doubts="The null is an expectation: at 64 outputs it is 0.33, and single random directions scatter around it.",
    source="expected largest |cosine| of a random unit vector of R^m with p orthonormal ones, from the regularised "
    "incomplete beta function (metrics/null.py)",
    check=_check,
)
