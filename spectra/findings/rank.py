"""SP301 and SP302: the allotted rank mostly unused, or used up."""

import statistics

from spectra.findings.almost_untrained import is_nearly_nothing
from spectra.findings.finding import Evidence, Raised, Rule
from spectra.metrics.layer import Layer
from spectra.metrics.ranks import Ranks
from spectra.text import count, percent

_UNUSED, _EXHAUSTED = 0.35, 0.85


def _allotted(evidence: Evidence) -> list[tuple[Layer, Ranks, int]]:
    """The rows that were given a rank above 1 and used it: an update that is nearly nothing is its random start."""
    return [
        (layer, layer.rank, layer.rank.allotted)
        for layer in evidence.measured
        if layer.rank is not None
        and layer.rank.allotted is not None
        and layer.rank.allotted > 1
        and not is_nearly_nothing(layer)
    ]


def _unused(evidence: Evidence) -> list[Raised]:
    rows = [(layer, rank, r) for layer, rank, r in _allotted(evidence) if rank.energy_99 <= _UNUSED * r]
    known = _allotted(evidence)
    if not rows or len(rows) <= len(known) / 2:
        return []
    enough = max(rank.energy_99 for _, rank, _ in rows)
    allotted = statistics.median(r for _, _, r in rows)
    effective = statistics.median(rank.effective for _, rank, _ in rows)
    return [
        Raised(
            "info",
            f"The rank is mostly unused in {len(rows)} of {count(len(known), 'matrix', 'matrices')}: effective rank "
            f"{effective:.1f} of r = {allotted:g} (median).",
            f"Rank {enough} holds 99 % of the energy of each of these updates: r = {enough} would do, where size "
            "matters.",
            [layer for layer, _, _ in rows],
            {"median_effective": effective, "allotted": allotted, "rank_for_99": enough},
        )
    ]


def _exhausted(evidence: Evidence) -> list[Raised]:
    known = _allotted(evidence)
    rows = [(layer, rank, r) for layer, rank, r in known if rank.effective >= _EXHAUSTED * r]
    if not rows or len(rows) <= len(known) / 2:
        return []
    used = statistics.median(rank.effective / r for _, rank, r in rows)
    return [
        Raised(
            "info",
            f"The rank is used up in {len(rows)} of {count(len(known), 'matrix', 'matrices')}: the effective rank is "
            f"{percent(used)} of r (median).",
            "If the task is not learnt well enough, a higher rank has room to help (with rsLoRA, or alpha = 2r).",
            [layer for layer, _, _ in rows],
            {"median_utilisation": used},
        )
    ]


_SOURCE = "effective rank, Roy and Vetterli 2007; energy rank, Biderman et al., arXiv:2405.09673"
RANK_UNUSED = Rule("SP301", "rank-unused", _SOURCE, _unused)
RANK_EXHAUSTED = Rule("SP302", "rank-exhausted", _SOURCE, _exhausted)
