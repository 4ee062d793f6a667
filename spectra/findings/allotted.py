"""The matrices whose rank can be judged against the one they were given: what SP301 and SP302 look at."""

from typing import TYPE_CHECKING

from spectra.findings.almost_untrained import is_nearly_nothing
from spectra.findings.finding import Evidence

if TYPE_CHECKING:
    from spectra.metrics.layer import Layer
    from spectra.metrics.ranks import Ranks


def allotted_ranks(evidence: Evidence) -> "list[tuple[Layer, Ranks, int]]":
    """The rows that were given a rank above 1 and used it: an update that is nearly nothing is its random start."""
    return [
        (layer, layer.rank, layer.rank.allotted)
        for layer in evidence.measured
        if layer.rank is not None
        and layer.rank.allotted is not None
        and layer.rank.allotted > 1
        and not is_nearly_nothing(layer)
    ]
