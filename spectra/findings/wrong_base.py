"""SP103: base and tuned do not look like base and fine-tune."""

import statistics

from spectra.findings.finding import Evidence, Raised, Rule

_RATIO, _COSINE = 0.5, 0.9


def _check(evidence: Evidence) -> list[Raised]:
    known = [(layer, layer.norm) for layer in evidence.measured if layer.norm is not None]
    far = [layer for layer, norm in known if norm.ratio > _RATIO or norm.cosine < _COSINE]
    if not far or len(far) <= len(evidence.layers) / 2:
        return []
    ratio = statistics.median(norm.ratio for _, norm in known)
    cosine = statistics.median(norm.cosine for _, norm in known)
    measured = f"the median update is {ratio:.2f} of its weight and the median cosine of base and tuned {cosine:.2f}"
    if evidence.is_adapter:
        message = f"Unusually large for an adapter: {measured}."
        advice = "Check alpha, r and the scale against the training run, and that this is the base it was trained on."
    else:
        message = f"These do not look like base and fine-tune: {measured}."
        advice = "Check that this is the very base it was trained from: a sibling of the same shape fits as well."
    return [
        Raised(
            "warning",
            message,
            advice,
            far,
            {"median_ratio": ratio, "median_cosine": cosine, "matrices": len(far)},
        )
    ]


WRONG_BASE = Rule("SP103", "wrong-base", "fine-tuning moves a weight by a small part of its norm", _check)
