"""SP101: the update is zero, in part or in whole."""

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.metrics.layer import ZERO
from spectra.text import count


def _check(evidence: Evidence) -> list[Raised]:
    zero = [layer for layer in evidence.layers if layer.status == ZERO]
    if not zero:
        return []
    total = len(evidence.layers)
    numbers = {"zero_updates": len(zero), "matrices": total}
    if len(zero) == total:
        why = "B is still zero, as at the start of training" if evidence.is_adapter else "base and tuned are identical"
        return [
            Raised(
                "error",
                f"Every update is zero: {why}.",
                "Check that training ran, that the adapter was active, and that this is the checkpoint you meant; a "
                "state dict taken before training shares its memory with the model: copy it with copy.deepcopy.",
                zero,
                numbers,
            )
        ]
    return [
        Raised(
            "warning" if evidence.is_adapter else "info",
            f"{count(len(zero), 'matrix', 'matrices')} of {total} did not change at all.",
            "Expected when they were frozen; otherwise check the target modules and the optimiser's groups.",
            zero,
            numbers,
        )
    ]


UNTRAINED = Rule("SP101", "untrained", "dW = 0 by definition", _check)
