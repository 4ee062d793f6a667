"""SP103: base and tuned do not look like base and fine-tune."""

import statistics

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.metrics.layer import ZERO
from spectra.text import count, percent

_RATIO, _COSINE = 0.5, 0.9


def _check(evidence: Evidence) -> list[Raised]:
    """Speak when most matrices are far from their base. One that is equal to it is evidence for the base."""
    known = [(layer, layer.norm) for layer in evidence.measured if layer.norm is not None]
    far = [layer for layer, norm in known if norm.ratio > _RATIO or norm.cosine < _COSINE]
    equal = sum(layer.status == ZERO for layer in evidence.layers)
    judged = len(known) + equal
    if not far or len(far) <= judged / 2:
        return []
    ratio = statistics.median(norm.ratio for _, norm in known)
    cosine = statistics.median(norm.cosine for _, norm in known)
    measured = (
        f"the median update is {ratio:.2f} of its weight, the median cosine of base and tuned {cosine:.2f}, and "
        f"{percent(equal / judged)} of {count(judged, 'matrix', 'matrices')} are equal"
    )
    if evidence.is_adapter:
        message = f"Unusually large for an adapter: {measured}."
        advice = "Check alpha, r and the scale against the training run, and that this is the base it was trained on."
    else:
        message = f"These do not look like base and fine-tune: {measured}."
        advice = "Check that this is the very base it was trained from: a sibling of the same shape fits as well."
    numbers = {
        "median_ratio": ratio,
        "median_cosine": cosine,
        "matrices": len(far),
        "judged": judged,
        "equal_share": equal / judged,
    }
    return [Raised("warning", message, advice, far, numbers)]


WRONG_BASE = Rule("SP103", "wrong-base", "fine-tuning moves a weight by a small part of its norm", _check)
