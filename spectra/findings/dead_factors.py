"""SP105: an update that is zero although B is not at its start: factors that are dead, turned round or scaled away."""

from typing import TYPE_CHECKING

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.metrics.status import ZERO
from spectra.text import count

if TYPE_CHECKING:
    from spectra.metrics.layer import Layer

_DEAD, _TURNED, _SCALED = "both factors zero", "A zero, B not", "scale zero"
_SAID = {
    _DEAD: (
        "both factors are zero, so that the gradient of each is zero too: they can never learn",
        "Initialise them again: A at random, B zero. A file that was pruned, padded or written before the "
        "initialisation looks like this.",
    ),
    _TURNED: (
        "A is zero and B is not, the reverse of LoRA's start: only A can learn from there",
        "Right for a method that trains A alone (MiCA) and has not trained yet; otherwise the initialisation is turned "
        "round, or A was lost when the file was written.",
    ),
    _SCALED: (
        "the scale is zero: what the factors have learnt is not applied",
        "Set alpha to that of the training run, for these modules in alpha_pattern too.",
    ),
}


def _check(evidence: Evidence) -> list[Raised]:
    return [*_whole(evidence), *_pieces(evidence)]


def _whole(evidence: Evidence) -> list[Raised]:
    zero = [(layer, why) for layer in evidence.having(ZERO) if (why := why_zero(layer)) is not None]
    found = []
    for reason, (what, advice) in _SAID.items():
        rows = [layer for layer, why in zero if why == reason]
        if rows:
            every = len(zero) == len(evidence.layers)
            text = f"The update of {count(len(rows), 'matrix', 'matrices')} of {len(evidence.layers)} is zero: {what}."
            numbers = {"reason": reason, "dead": len(rows), "matrices": len(evidence.layers)}
            found.append(Raised("error" if every else "warning", text, advice, rows, numbers))
    return found


def why_zero(layer: "Layer") -> str | None:
    """Return why an update is zero, None where B alone is, as before training, or where nothing is known of it."""
    if layer.scaling == 0:
        return _SCALED
    factors = layer.balance
    if factors is None:
        return None
    return None if factors.A else _TURNED if factors.B else _DEAD


def _pieces(evidence: Evidence) -> list[Raised]:
    """Say of updates that are not zero how many of their rank-one pieces `b_i a_i^T` have both halves zero."""
    rows = [
        (layer, layer.balance.dead) for layer in evidence.measured if layer.balance is not None and layer.balance.dead
    ]
    if not rows:
        return []
    most = max(dead for _, dead in rows)
    return [
        Raised(
            "info",
            f"In {count(len(rows), 'matrix', 'matrices')} up to {most} of the rank-one pieces of B A are zero in both "
            "factors: they take space and can never learn.",
            "Expected after padding to a common rank or after pruning; otherwise cut the adapter to the rank it uses.",
            [layer for layer, _ in rows],
            {"matrices": len(rows), "most_pieces": most},
        )
    ]


DEAD_FACTORS = Rule(
    code="SP105",
    name="dead-factors",
    summary="An update that is zero although B is not at its start: factors dead, turned round or scaled away.",
    severities=("error", "warning", "info"),
    meaning="The low-rank update of some matrices is exactly zero, and not because training has not begun (A random, B "
    "zero: SP101). Either both factors are zero: with dW = s B A the gradients s G A^T of B and s B^T G of A vanish "
    "together, whatever the loss. Or A is zero and B is not. Or the scale is zero. An error where every matrix is "
    "such, else a warning. A remark where an update is there, and some of its rank-one pieces (a column of B and the "
    "row of A) are zero on both sides.",
    advice="Initialise the factors again (A at random, B zero), and check that alpha is not zero. Where only some "
    "modules are dead, look for what wrote the file: pruning, padding to a larger rank, a cut save.",
    doubts="It looks at factors of plain low-rank updates alone; DoRA, sums of adapters and other structures are not "
    "judged. Zero means zero as stored: a factor that underflowed in float16 is zero here.",
    source="gradients of s B A: Hu et al. 2021, arXiv:2106.09685, section 4.1 (A random, B zero)",
    check=_check,
)
