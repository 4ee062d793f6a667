"""DyLoRA (arXiv:2210.07558) read at one of the ranks it was trained for: the first pieces of its factors alone."""

from collections.abc import Iterable
from dataclasses import replace

from spectra.loaders.adapters.contents import Module
from spectra.loaders.options import given_as
from spectra.loaders.plan import Plan, Planned
from spectra.text import listing, show
from spectra.updates import LowRank, WeightPair

_FAMILIES = ("LORA", "LOCON")
_PIECES = ("lora_a", "lora_b", "lora_down", "lora_up", "lora_embedding", "alpha", "scalar", "up", "down")


def truncate(plan: Plan, rank: int, modules: Iterable[Module]) -> None:
    """Cut every low-rank update of a plan to its first `rank` pieces, `B[:, :rank] A[:rank]`.

    The scale stays that of the file. A rank that no update exceeds, and updates whose factors are no row of trained
    pieces, which only plain LoRA's are, are left as they are and said in `plan.idle`.
    """
    other = next((module for module in modules if not _is_plain(module)), None)
    most = max(plan.info.ranks, default=0)
    if other is not None:
        plan.idle["truncate"] = (
            f"{given_as('truncate')} is for plain LoRA, whose factors are a row of pieces; '{show(other.name)}' of "
            f"'{show(plan.info.label)}' is {other.family.method} of {listing(other.parts, 5)}"
        )
    elif rank > most:
        has = f"has ranks of at most {most}" if most else "has no rank to cut"
        plan.idle["truncate"] = f"{given_as('truncate')} is {rank}, and '{show(plan.info.label)}' {has}"
    if "truncate" in plan.idle:
        return
    plan.pairs = {place: _cut(planned, rank) for place, planned in plan.pairs.items()}
    plan.info = replace(plan.info, ranks=tuple(sorted({min(rank, own) for own in plan.info.ranks})))
    plan.notes.append(f"read at rank {rank} as DyLoRA trains it, with the scale of the whole")


def _is_plain(module: Module) -> bool:
    return module.family.method in _FAMILIES and all(part.lower().startswith(_PIECES) for part in module.parts)


def _cut(planned: Planned, rank: int) -> Planned:
    def build() -> WeightPair:
        pair = planned.build()
        update = pair.update
        if not isinstance(update, LowRank):
            return pair
        return replace(pair, update=LowRank(update.B[:, :rank], update.A[:rank]), allotted=min(rank, update.B.shape[1]))

    return replace(planned, build=build)
