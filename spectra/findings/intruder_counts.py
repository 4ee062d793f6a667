"""Where intruders sit: what SP201, SP203 and SP204, of which at most one is raised, look at."""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from spectra.findings.finding import Evidence, Raised
from spectra.text import count, percent, show

if TYPE_CHECKING:
    from spectra.metrics.intruders import Intruders
    from spectra.metrics.layer import Layer

NEAR = 0.66  # of epsilon: where a random direction is as similar to the base as that, chance decides the count
MANY, FEW = 0.2, 0.05  # of all leading directions
MAJORITY, LIFT, ENOUGH = 0.5, 2, 5  # a place has most intruders, at twice the rate of the whole, and not just a few
NEARLY_ALL, SEVERAL = 0.75, 4  # of the matrices, and how many there must be to speak of all


def possible(layer: "Layer", epsilon: float) -> bool:
    """Whether any direction of a matrix can be an intruder: none is below 1 / sqrt(m) against a complete basis."""
    return any(_can_intrude(side, layer.shape, epsilon) for side in layer.intruders)


def _can_intrude(side: "Intruders", shape: tuple[int, int], epsilon: float) -> bool:
    dimension = shape[0] if side.side == "left" else shape[1]
    return bool(side.similarity) and (dimension > min(shape) or dimension**-0.5 < epsilon)


def is_near_chance(side: "Intruders", epsilon: float) -> bool:
    """Whether a random direction would come so near to the base that a count below epsilon says little."""
    return bool(side.similarity) and side.null >= NEAR * epsilon


class Group(NamedTuple):
    """A kind of module or a block, and how many of the intruders and of the leading directions are in it."""

    name: str
    intruders: int
    examined: int


@dataclass(frozen=True)
class IntruderCounts:
    """Intruders that neither ties of the base nor chance explain, over the sides that were compared.

    sides : of each measured matrix, those whose count means something; matrices without such a side are left out.
    left_out : leading directions of the sides left out.
    """

    sides: "tuple[tuple[Layer, tuple[Intruders, ...]], ...]"
    left_out: int

    @cached_property
    def rows(self) -> "list[Layer]":
        """The matrices that have intruders."""
        return [layer for layer, sides in self.sides if _intruders(sides)]

    @cached_property
    def found(self) -> int:
        return sum(_intruders(sides) for _, sides in self.sides)

    @cached_property
    def new(self) -> int:
        return sum(side.new for _, sides in self.sides for side in sides)

    @cached_property
    def examined(self) -> int:
        return sum(_examined(sides) for _, sides in self.sides)

    @property
    def share(self) -> float:
        return self.found / self.examined

    def groups(self, of: "Callable[[Layer], Hashable]") -> dict[Hashable, tuple[int, int]]:
        """Intruders and leading directions by group; None is no group."""
        found: Counter[Hashable] = Counter()
        examined: Counter[Hashable] = Counter()
        for layer, sides in self.sides:
            found[of(layer)] += _intruders(sides)
            examined[of(layer)] += _examined(sides)
        return {group: (found[group], examined[group]) for group in examined if group is not None}

    @cached_property
    def concentration(self) -> Group | None:
        """The kind of module or the block that holds most intruders and far more than its share; the densest one."""
        groups = [
            Group(f"{kind}{show(group)}", *held)
            for kind, of in (("", _module), ("block ", _block))
            for group, held in self.groups(of).items()
        ]
        dense = [group for group in groups if self._is_dense(group)]
        return max(dense, key=lambda group: group.intruders / group.examined, default=None)

    def _is_dense(self, group: Group) -> bool:
        return (
            group.intruders >= ENOUGH
            and group.intruders > MAJORITY * self.found
            and group.intruders * self.examined >= LIFT * group.examined * self.found
        )

    @cached_property
    def everywhere(self) -> bool:
        """Whether nearly all matrices have some, of several, and no place has most."""
        return len(self.rows) >= NEARLY_ALL * len(self.sides) >= NEARLY_ALL * SEVERAL and self.concentration is None

    def _unjudged(self) -> str:
        """Why the headline counts more directions, where it does."""
        if not self.left_out:
            return ""
        return f" Not judged: {count(self.left_out, 'direction')} of matrices so small that chance decides."

    def raised(self, where: str, advice: str, **numbers: int | str) -> Raised:
        """Say how many there are and where; a warning where a fifth of all leading directions are intruders."""
        return Raised(
            "warning" if self.share >= MANY else "info",
            f"{count(self.found, 'intruder')} among {count(self.examined, 'leading direction')} "
            f"({percent(self.share)}; {self.new} new, {self.found - self.new} rotated), {where}.{self._unjudged()}",
            "Few: nothing to do unless the model forgets what it should not." if self.share < FEW else advice,
            self.rows,
            {"intruders": self.found, "examined": self.examined, "new": self.new, "share": self.share, **numbers},
        )


def intruder_counts(evidence: Evidence) -> IntruderCounts:
    """Count over the sides that are large enough for a count to mean something."""

    def telling(layer: "Layer") -> "tuple[Intruders, ...]":
        return tuple(side for side in layer.intruders if side.similarity and not is_near_chance(side, evidence.epsilon))

    sides = tuple((layer, telling(layer)) for layer in evidence.measured)
    judged = sum(_examined(kept) for _, kept in sides)
    left_out = sum(layer.examined for layer, _ in sides) - judged
    return IntruderCounts(tuple((layer, kept) for layer, kept in sides if kept), left_out)


def measure_or_lessen(evidence: Evidence) -> str:
    """What to do about intruders that sit in no one place."""
    if evidence.is_adapter:
        return (
            "If forgetting matters, measure it on the pre-training task. The paper finds fewer at a high rank with "
            "alpha = 2r or rsLoRA; a smaller scale or learning rate leaves fewer too."
        )
    return (
        "More than the paper saw in full fine-tuning, which had hardly any. If forgetting matters, compare with a "
        "smaller learning rate or fewer steps."
    )


def _intruders(sides: "tuple[Intruders, ...]") -> int:
    return sum(side.rotated + side.new for side in sides)


def _examined(sides: "tuple[Intruders, ...]") -> int:
    return sum(len(side.similarity) for side in sides)


def _module(layer: "Layer") -> Hashable:
    return layer.place.module


def _block(layer: "Layer") -> Hashable:
    return layer.place.block
