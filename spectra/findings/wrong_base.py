"""SP103: base and tuned do not look like base and fine-tune."""

import statistics
from typing import TYPE_CHECKING, NamedTuple

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.metrics.status import ZERO
from spectra.text import count, percent

if TYPE_CHECKING:
    from spectra.metrics.layer import Layer

_RATIO, _COSINE = 0.5, 0.9


class FarFromBase(NamedTuple):
    """The matrices far from their base, and how many were judged; one that is equal to it is evidence for the base."""

    rows: "list[Layer]"
    equal: int
    judged: int

    @property
    def most(self) -> bool:
        return len(self.rows) > self.judged / 2


def far_from_base(evidence: Evidence) -> FarFromBase:
    """Find the matrices whose update is too large, or turns them too far, for fine-tuning."""
    known = [(layer, layer.norm) for layer in evidence.measured if layer.norm is not None]
    far = [layer for layer, norm in known if norm.ratio > _RATIO or norm.cosine < _COSINE]
    equal = len(evidence.having(ZERO))
    return FarFromBase(far, equal, len(known) + equal)


def _check(evidence: Evidence) -> list[Raised]:
    found = far_from_base(evidence)
    if not found.most:
        return []
    far, equal, judged = found
    norms = [layer.norm for layer in evidence.measured if layer.norm is not None]
    ratio = statistics.median(norm.ratio for norm in norms)
    cosine = statistics.median(norm.cosine for norm in norms)
    same = f"{equal} {'is' if equal == 1 else 'are'}" if equal else "none is"
    lie = "lies" if len(far) == 1 else "lie"
    measured = (
        f"{len(far)} of {count(judged, 'matrix', 'matrices')} {lie} far from the base, {same} equal to it; the median "
        f"update is {ratio:.2f} of its weight, the median cosine of base and tuned {cosine:.2f}"
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


WRONG_BASE = Rule(
    code="SP103",
    name="wrong-base",
    summary="Base and tuned do not look like base and fine-tune.",
    severities=("warning",),
    meaning=f"More than half of the matrices lie far from the base: ||dW|| above {percent(_RATIO)} of ||W0|| "
    f"(Frobenius), or the cosine of W0 and W as vectors below {_COSINE}. Fine-tuning moves a weight by a small part "
    "of its norm; two models of one architecture that were trained apart have a cosine near 0 and a ratio near 1.4.",
    advice="Check that this is the very base that the model was trained from: a sibling of the same shape (another "
    "seed, the instruct model, another version) fits without a word. For an adapter also check alpha, r and the scale "
    "against the training run.",
    doubts="A very long or hot training run can move a weight this far from its true base. A sibling that was trained "
    "on from the same weights lies so near that this check does not see it.",
    source="||dW||_F / ||W0||_F and <W0, W> / (||W0||_F ||W||_F); thresholds of this tool",
    check=_check,
)
