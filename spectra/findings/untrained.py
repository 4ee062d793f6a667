"""SP101: the update is zero, in part or in whole."""

from spectra.findings.dead_factors import why_zero
from spectra.findings.finding import Evidence, Raised, Rule
from spectra.metrics.status import ZERO
from spectra.text import count, listing

_SHOWN = 4
_FROZEN = "Expected when they were frozen; otherwise check the optimiser's groups."
_NO_STEP = (
    "Unless SP105 says otherwise their factors got no gradient or no step: check the optimiser's groups, and that the "
    "model calls these modules rather than taking their weight (`F.linear(x, layer.weight)` passes an adapter by)."
)


def _check(evidence: Evidence) -> list[Raised]:
    zero, total = evidence.having(ZERO), len(evidence.layers)
    if not zero:
        return []
    numbers = {"zero_updates": len(zero), "matrices": total}
    kinds = listing(sorted({layer.place.module for layer in zero}), _SHOWN)
    if len(zero) == total:
        return [
            Raised(
                "error",
                f"Every update is zero: {_why(evidence)}.",
                "Check that training ran, that the adapter was active, and that this is the checkpoint you meant; a "
                "state dict taken before training shares its memory with the model: copy it with copy.deepcopy.",
                zero,
                numbers,
            )
        ]
    return [
        Raised(
            "warning" if evidence.is_adapter else "info",
            f"{count(len(zero), 'matrix', 'matrices')} of {total} did not change at all: {kinds}.",
            _NO_STEP if evidence.is_adapter else _FROZEN,
            zero,
            numbers,
        )
    ]


def _why(evidence: Evidence) -> str:
    if not evidence.is_adapter:
        return "base and tuned are identical"
    dead = any(why_zero(layer) is not None for layer in evidence.having(ZERO))
    return "see SP105 for the reason" if dead else "B is still zero, as at the start of training"


UNTRAINED = Rule(
    code="SP101",
    name="untrained",
    summary="The update is zero, in part or in whole.",
    severities=("error", "warning", "info"),
    meaning="The update of some matrices, or of all, is exactly zero: the tuned weight is the base weight, entry by "
    "entry. An error where it is so for all; a warning for some matrices of an adapter, which was put there to change "
    "them; a remark for some matrices of a full fine-tune, which may have been frozen.",
    advice="Check that training ran, that the adapter was active and its factors were given to the optimiser, and "
    "that this is the checkpoint you meant. A state dict taken before training shares its memory with the model: copy "
    "it with copy.deepcopy. Where only some modules of an adapter are unchanged, see that the model calls them: one "
    "that takes their weight alone (F.linear(x, layer.weight)) passes the adapter by.",
    doubts="A frozen matrix is no fault: a pooler that the loss does not see, an embedding left out on purpose. In a "
    "file of half precision a step smaller than half a rounding step leaves the stored weight as it was: zero here "
    "means zero as stored.",
    source="dW = W - W0 = 0, entry by entry; B starts at zero: Hu et al. 2021, arXiv:2106.09685, section 4.1",
    check=_check,
)
