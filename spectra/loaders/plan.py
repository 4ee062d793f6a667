"""What will be read: the pairs to build, in base order, and the list of what was left out and why."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from spectra.loaders.source import TensorSource
from spectra.updates import WeightPair

if TYPE_CHECKING:
    from spectra.loaders.base import Base


Place = tuple[str, int | None]


class Skipped(NamedTuple):
    """A tensor that is not analysed, and why."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Tied:
    """One stored weight that several modules use, of which an adapter changes one or more.

    key : the base weight; adapted : the modules of the adapter that are put on it; others : what else uses it.
    """

    key: str
    adapted: tuple[str, ...]
    others: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class TunedInfo:
    """What kind of update this is, known before any weight is read.

    ranks and alphas : the distinct values over the adapted modules, ascending; empty for full
    fine-tuning. parameters, bytes : what the tuned side stores, each shared storage once.
    start : what a start of LoRA that changed the base, or may have, is called ("PiSSA"), else empty; as_stored :
    whether that was left out of dW, as the caller asked. rank_stabilised : rsLoRA. tied : adapted weights that are
    stored once and used more than once. whole : whether the file is meant to hold a whole model.
    """

    label: str
    method: str
    parameters: int
    bytes: int
    ranks: tuple[int, ...] = ()
    alphas: tuple[float, ...] = ()
    scalings: tuple[float, ...] = ()
    targets: tuple[str, ...] = ()
    base_named: str | None = None
    start: str = ""
    as_stored: bool = False
    rank_stabilised: bool = False
    tied: tuple[Tied, ...] = ()
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Planned:
    """One pair to come: its key, how to build it, and the number of the expert in a stack of them."""

    key: str
    build: Callable[[], WeightPair]
    index: int | None = None

    @property
    def place(self) -> Place:
        """The key and the expert's number: no two pairs have the same."""
        return self.key, self.index


@dataclass(slots=True)
class Plan:
    """The whole reading of one tuned model against its base.

    alphas : for each adapted base key, the alpha of every module that adapts it, by the module's name in the
    adapter's configuration. targeted : the base keys that its configuration puts the adapter on, None where it does
    not tell. base : the one that was planned against, where it is not the one given; others : what else is read from
    and must be closed. idle : what the caller gave and this model has no room for, with the reason as a sentence.
    """

    info: TunedInfo
    source: TensorSource
    pairs: dict[Place, Planned] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    alphas: dict[str, dict[str, float]] = field(default_factory=dict)
    targeted: frozenset[str] | None = None
    base: "Base | None" = None
    others: list[TensorSource] = field(default_factory=list)
    idle: dict[str, str] = field(default_factory=dict)

    def add(self, planned: Planned) -> None:
        self.pairs[planned.place] = planned

    def skip(self, key: str, reason: str) -> None:
        self.skipped.append(Skipped(key, reason))
