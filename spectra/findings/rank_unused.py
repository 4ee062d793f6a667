"""SP301: the allotted rank mostly unused."""

import statistics

from spectra.findings.allotted import allotted_ranks
from spectra.findings.finding import Evidence, Raised, Rule
from spectra.text import count, percent

_UNUSED = 0.35


def _check(evidence: Evidence) -> list[Raised]:
    known = allotted_ranks(evidence)
    unused = [(layer, rank, r) for layer, rank, r in known if rank.interval("energy_99")[1] <= _UNUSED * r]
    if not unused or len(unused) <= len(known) / 2:
        return []
    enough = {share: int(max(rank.interval(f"energy_{share}")[1] for _, rank, _ in unused)) for share in (90, 95, 99)}
    allotted = statistics.median(r for _, _, r in unused)
    effective = statistics.median(rank.effective for _, rank, _ in unused)
    return [
        Raised(
            "info",
            f"The rank is mostly unused in {len(unused)} of {count(len(known), 'matrix', 'matrices')}: effective rank "
            f"{effective:.1f} of r = {allotted:g} (medians).",
            f"Where size matters, r = {enough[99]} would do: it holds 99 % of the energy of each of these updates "
            f"(95 %: r = {enough[95]}, 90 %: r = {enough[90]}). Keep the scale, alpha / r, as it is.",
            [layer for layer, _, _ in unused],
            {
                "median_effective": effective,
                "allotted": allotted,
                "rank_for_90": enough[90],
                "rank_for_95": enough[95],
                "rank_for_99": enough[99],
            },
        )
    ]


RANK_UNUSED = Rule(
    code="SP301",
    name="rank-unused",
    summary="The allotted rank is mostly unused.",
    severities=("info",),
    meaning="In more than half of the adapted matrices the energy rank at 99 % (the fewest singular directions that "
    f"hold 99 % of the sum of squared singular values of dW) is at most {percent(_UNUSED)} of the allotted r. Of an "
    "estimated rank its upper end is compared. Matrices of rank 1, and those whose update is nearly nothing, are not "
    "judged.",
    advice="A smaller rank would hold nearly all of what was learnt: the finding names the r for 90, 95 and 99 % of "
    "the energy. Train with it, or cut the adapter to it. Keep the scale (alpha / r; alpha / sqrt(r) with rsLoRA).",
    doubts="Energy is not importance: a direction of little energy can carry a rare skill, so measure the task after "
    "cutting. A run that was stopped early uses less of its rank than it would have.",
    source="energy rank: Biderman et al. 2024, arXiv:2405.09673; effective rank: Roy and Vetterli 2007",
    check=_check,
)
