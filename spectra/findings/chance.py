"""SP202: a count that stands where chance alone would put it."""

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.text import count

_NEAR = 0.66
_MOST = 0.5


def _check(evidence: Evidence) -> list[Raised]:
    """Speak where it matters: some of the count comes from such matrices, or most matrices are such."""
    near = [
        layer
        for layer in evidence.measured
        if any(side.similarity and side.null >= _NEAR * evidence.epsilon for side in layer.intruders)
    ]
    counted = sum(layer.found for layer in near)
    if not near or not (counted or len(near) > _MOST * len(evidence.measured)):
        return []
    least = min(max(side.null for side in layer.intruders) for layer in near)
    total = sum(layer.found for layer in evidence.measured)
    from_them = f" {counted} of the {count(total, 'intruder')} stand there." if counted else ""
    return [
        Raised(
            "info",
            f"{count(len(near), 'matrix is', 'matrices are')} so small that a random direction has a similarity of "
            f"{least:.2f} or more to the base: at epsilon = {evidence.epsilon:g} a count there says little.{from_them}",
            "Read the sweep over epsilon and the novelty instead of the count.",
            near,
            {"least_null": least, "epsilon": evidence.epsilon, "intruders": counted},
        )
    ]


CHANCE = Rule("SP202", "near-chance", "expected similarity of a random unit vector", _check)
