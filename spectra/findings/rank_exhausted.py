"""SP302: the allotted rank used up."""

import statistics

from spectra.findings.allotted import allotted_ranks
from spectra.findings.finding import Evidence, Raised, Rule
from spectra.text import count, percent

_EXHAUSTED = 0.85


def _check(evidence: Evidence) -> list[Raised]:
    known = allotted_ranks(evidence)
    full = [(layer, rank, r) for layer, rank, r in known if rank.interval("effective")[0] >= _EXHAUSTED * r]
    if not full or len(full) <= len(known) / 2:
        return []
    used = statistics.median(rank.effective / r for _, rank, r in full)
    return [
        Raised(
            "info",
            f"The rank is used up in {len(full)} of {count(len(known), 'matrix', 'matrices')}: the effective rank is "
            f"{percent(used)} of r (median).",
            "If the task is not learnt well enough, a higher rank has room to help (with rsLoRA, or alpha = 2r).",
            [layer for layer, _, _ in full],
            {"median_utilisation": used},
        )
    ]


RANK_EXHAUSTED = Rule(
    code="SP302",
    name="rank-exhausted",
    summary="The allotted rank is used up.",
    severities=("info",),
    meaning=f"In more than half of the adapted matrices the effective rank of dW is at least {percent(_EXHAUSTED)} of "
    "the allotted r: no direction is left idle. Singular values that fall as i^-0.5 have 91 % at r = 16 and 97 % at r "
    "= 4, those that fall as 1 / i 66 % and 87 %. Of an estimated rank its lower end is compared. Matrices of rank 1, "
    "and those whose update is nearly nothing, are not judged.",
    advice="If the task is not learnt well enough, a higher rank has room to help: with rsLoRA, or with alpha = 2r, "
    "so that the scale does not shrink as r grows. If it is learnt well enough, nothing is wrong.",
    doubts="The factors of a random start are about alike too, so that little training reads as a rank used up. A "
    "small r fills easily: up to r = 4 this says little. Methods whose update outgrows r (Hadamard and Kronecker "
    "products, DoRA's magnitudes) can stand above 100 %.",
    source="effective rank: Roy and Vetterli 2007; rsLoRA: Kalajdzievski 2023, arXiv:2312.03732",
    check=_check,
)
