"""SP307: an update that is larger than the weight it updates."""

from typing import TYPE_CHECKING

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.findings.wrong_base import far_from_base
from spectra.text import count, listing, numbered

if TYPE_CHECKING:
    from spectra.metrics.layer import Layer

_OUTGROWN = 1.0  # of ||dW|| / ||W0||. The next largest of the models that have such a matrix is 0.35


def _check(evidence: Evidence) -> list[Raised]:
    """Speak of single matrices: where most lie far from their base, it is the base that is doubted."""
    rows = [layer for layer in evidence.measured if layer.update_kind == "dense" and _ratio(layer) > _OUTGROWN]
    if not rows or far_from_base(evidence).most:
        return []
    rows.sort(key=_ratio, reverse=True)
    first = rows[0].norm
    assert first is not None
    theirs, every = _intruders(rows), _intruders(evidence.measured)
    of_all = (
        f" {theirs} of the {count(every, 'intruder')} counted {'is' if theirs == 1 else 'are'} theirs."
        if theirs
        else ""
    )
    return [
        Raised(
            "info",
            f"The update is larger than the weight itself in {len(rows)} of "
            f"{count(len(evidence.measured), 'matrix', 'matrices')}: {listing(map(_named, rows), 3)}, "
            f"{'at most ' if len(rows) > 1 else ''}{first.ratio:.3g} times as large (cosine of base and tuned "
            f"{first.cosine:.2f}).{of_all}",
            "Take such a matrix for a new layer rather than a tuned one: leave it out with --exclude, so that counts "
            "and sums speak of what was tuned. If it was not to be trained anew, check its learning rate.",
            rows,
            {
                "largest_ratio": first.ratio,
                "cosine": first.cosine,
                "intruders": theirs,
                "all_intruders": every,
                "rows": len(rows),
                "matrices": len(evidence.measured),
            },
        )
    ]


def _ratio(layer: "Layer") -> float:
    return layer.norm.ratio if layer.norm is not None else 0.0


def _named(layer: "Layer") -> str:
    return numbered(layer.key, layer.index)


def _intruders(layers: "list[Layer]") -> int:
    return sum(side.rotated + side.new for layer in layers for side in layer.intruders)


OUTGROWN_BASE = Rule(
    code="SP307",
    name="outgrown-base",
    summary="An update that is larger than the weight it updates.",
    severities=("info",),
    meaning="||dW|| is larger than ||W0|| (Frobenius) in some matrices that are stored in full. A layer that was begun "
    "anew looks like this: its weight W knows nothing of W0, the cosine of the two is near 0 and the ratio near "
    "sqrt(1 + ||W||^2 / ||W0||^2). So does one that grew out of a weight that was next to nothing, such as a pooler "
    "that pre-training had not used, under a new head: then the cosine is larger. Either way nearly every leading "
    "direction is an intruder, and tells nothing of how the rest was tuned. Not said where most matrices lie far from "
    "the base: see SP103.",
    advice="Leave these matrices out (--exclude with their names), so that counts, medians and sums speak of what was "
    "tuned. Where the layer was not meant to be new, check its learning rate, and that its name stands for the same "
    "layer on both sides.",
    doubts="A weight that was scaled up, by more than two, has a large update as well, with a cosine near 1: its "
    "directions are still those of the base, and it has no intruders.",
    source="||dW||_F / ||W0||_F and <W0, W> / (||W0||_F ||W||_F); threshold of this tool",
    check=_check,
)
