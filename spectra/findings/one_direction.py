"""SP305: one singular direction holds nearly all of the update."""

import statistics
from typing import TYPE_CHECKING

from spectra.findings.almost_untrained import is_nearly_nothing
from spectra.findings.finding import Evidence, Raised, Rule
from spectra.text import count, percent

if TYPE_CHECKING:
    from spectra.metrics.layer import Layer

_DOMINATES = 0.9  # of ||dW||_F^2. Trained adapters have a median of 0.4 to 0.7, full fine-tunes of 0.05
_ROOM = 4  # directions that dW could have: of fewer, one always holds much


def _check(evidence: Evidence) -> list[Raised]:
    judged = [(layer, share) for layer in evidence.measured if (share := _least_share(layer)) is not None]
    rows = [(layer, share) for layer, share in judged if share >= _DOMINATES]
    if not rows or len(rows) <= len(judged) / 2:
        return []
    median = statistics.median(share for _, share in rows)
    return [
        Raised(
            "info",
            f"One direction dominates the update in {len(rows)} of {count(len(judged), 'matrix', 'matrices')}: it "
            f"holds {percent(median)} of the energy (median), and at least {percent(_DOMINATES)} in each.",
            "See what it does before trusting the rest: one direction is often a shift of a mean or the mark of a few "
            "tokens, and may be all that was learnt. A rank of 1 or 2 would hold it.",
            [layer for layer, _ in rows],
            {"median_share": median, "rows": len(rows), "judged": len(judged)},
        )
    ]


def _least_share(layer: "Layer") -> float | None:
    """Return the share `s_1^2 / ||dW||_F^2` that the first direction has at least, None where it is not judged."""
    rank = layer.rank
    if rank is None or is_nearly_nothing(layer) or min(rank.allotted or _ROOM, *layer.shape) < _ROOM:
        return None
    return 1 / rank.interval("stable")[1]


ONE_DIRECTION = Rule(
    code="SP305",
    name="one-direction",
    summary="One singular direction holds nearly all of the update.",
    severities=("info",),
    meaning="In more than half of the matrices the first singular direction of dW holds at least "
    f"{percent(_DOMINATES)} of its energy: s_1^2 / ||dW||_F^2, the inverse of the stable rank. Matrices whose update "
    f"could have fewer than {_ROOM} directions, and those whose update is nearly nothing, are not judged; of an "
    "estimated rank its upper end is taken.",
    advice="Look at the direction: compare its right vector with the mean input, its left vector with the largest "
    "directions of the base. Where one direction is all that was learnt, more data or a longer run may be what lacks; "
    "a smaller rank holds it as well.",
    doubts="Energy is not importance. A simple task can need just one direction: a classifier of two classes does.",
    source="stable rank ||dW||_F^2 / s_1^2; threshold of this tool, from trained adapters",
    check=_check,
)
