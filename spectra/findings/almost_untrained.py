"""SP104: updates so small beside their weights that training has hardly begun."""

import statistics

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.metrics.layer import Layer
from spectra.text import count

# Of ||dW|| / ||W0||. Fine-tunes that learnt something lie at 0.01 and above, light ones at some thousandths;
# an adapter after a handful of steps, whose B is still near zero, at 1e-5.
NEARLY_NOTHING = 1e-3


def is_nearly_nothing(layer: Layer) -> bool:
    """Say whether an update is below a thousandth of its weight, so that its shape is that of its start."""
    return layer.norm is not None and layer.norm.ratio < NEARLY_NOTHING


def _check(evidence: Evidence) -> list[Raised]:
    ratios = [layer.norm.ratio for layer in evidence.measured if layer.norm is not None]
    if not ratios or statistics.median(ratios) >= NEARLY_NOTHING:
        return []
    rows = [layer for layer in evidence.measured if is_nearly_nothing(layer)]
    median = statistics.median(ratios)
    advice = (
        "Check that training ran long enough, with a learning rate meant for adapters, that alpha and r are those it "
        "was trained with, and that this is the last checkpoint. Its rank is still that of a random start."
        if evidence.is_adapter
        else "Normal for a very small learning rate or a short run; otherwise check that this is the last checkpoint."
    )
    return [
        Raised(
            "warning" if evidence.is_adapter else "info",
            f"The update is nearly nothing: ||dW|| is {median:.1e} of ||W0|| (median of "
            f"{count(len(ratios), 'matrix', 'matrices')}), so the tuned model is all but the base.",
            advice,
            rows,
            {"median_ratio": median, "largest_ratio": max(ratios), "matrices": len(ratios)},
        )
    ]


ALMOST_UNTRAINED = Rule("SP104", "almost-untrained", "median ||dW|| / ||W0|| below 1e-3", _check)
