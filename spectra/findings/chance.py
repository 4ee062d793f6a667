"""SP202: epsilon too close to what chance gives for a count to mean much."""

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.text import count

_NEAR = 0.66


def _check(evidence: Evidence) -> list[Raised]:
    near = [
        layer
        for layer in evidence.measured
        if any(side.similarity and side.null >= _NEAR * evidence.epsilon for side in layer.intruders)
    ]
    if not near:
        return []
    worst = max(side.null for layer in near for side in layer.intruders)
    return [
        Raised(
            "info",
            f"{count(len(near), 'matrix', 'matrices')} so small that a random direction already has similarity up to "
            f"{worst:.2f} to the base: at epsilon = {evidence.epsilon:g} a count says little there.",
            "Read the sweep over epsilon and the novelty instead of the count.",
            near,
            {"largest_null": worst, "epsilon": evidence.epsilon},
        )
    ]


CHANCE = Rule("SP202", "near-chance", "expected similarity of a random unit vector", _check)
