"""DyLoRA (arXiv:2210.07558) read at one of the ranks it was trained for: the first pieces of its factors alone."""

from dataclasses import replace

from spectra.errors import UsageError
from spectra.loaders.plan import Plan, Planned
from spectra.text import show
from spectra.updates import LowRank, WeightPair


def truncate(plan: Plan, rank: int) -> None:
    """Cut every low-rank update of a plan to its first `rank` pieces, `B[:, :rank] A[:rank]`.

    The scale stays that of the file. Raises UsageError for a rank that no update has.
    """
    most = max(plan.info.ranks, default=0)
    if not 1 <= rank <= most:
        has = f"the ranks of '{show(plan.info.label)}' are at most {most}" if most else "there is no rank to cut"
        raise UsageError(f"truncate is {rank}, and {has}.")
    plan.pairs = {place: _cut(planned, rank) for place, planned in plan.pairs.items()}
    plan.info = replace(plan.info, ranks=tuple(sorted({min(rank, own) for own in plan.info.ranks})))
    plan.notes.append(f"read at rank {rank} as DyLoRA trains it, with the scale of the whole")


def _cut(planned: Planned, rank: int) -> Planned:
    def build() -> WeightPair:
        pair = planned.build()
        update = pair.update
        if not isinstance(update, LowRank):
            return pair
        return replace(pair, update=LowRank(update.B[:, :rank], update.A[:rank]), allotted=min(rank, update.B.shape[1]))

    return replace(planned, build=build)
