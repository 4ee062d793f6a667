"""SP104: updates so small beside their weights that training has hardly begun."""

import statistics
from typing import TYPE_CHECKING

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.text import count

if TYPE_CHECKING:
    from spectra.metrics.layer import Layer

# Of ||dW|| / ||W0||. Fine-tunes that learnt something lie at 0.01 and above, light ones at some thousandths;
# an adapter after a handful of steps, whose B is still near zero, at 1e-5.
NEARLY_NOTHING = 1e-3


def is_nearly_nothing(layer: "Layer") -> bool:
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
        "was trained with, and that this is the last checkpoint. Its rank says little: A has hardly "
        "left its random start."
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


ALMOST_UNTRAINED = Rule(
    code="SP104",
    name="almost-untrained",
    summary="Updates so small beside their weights that training has hardly begun.",
    severities=("warning", "info"),
    meaning=f"The median of ||dW|| / ||W0|| (Frobenius) over the measured matrices is below {NEARLY_NOTHING:g}: the "
    "tuned model is all but the base. A warning for an adapter, whose B starts at zero and grows within a few steps; "
    "a remark for a full fine-tune. An adapter's A has then hardly left its random start, so that the rank of the "
    "update says little.",
    advice="Check that training ran long enough, with a learning rate meant for adapters (higher than for full "
    "fine-tuning), that alpha and r are those it was trained with, and that this is the last checkpoint.",
    doubts="A very light fine-tune can do its task with so little. The median hides a few matrices that did move: see "
    "the size of dW matrix by matrix.",
    source="median of ||dW||_F / ||W0||_F; threshold of this tool, from adapters of a few and of many steps",
    check=_check,
)
