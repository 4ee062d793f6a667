"""What will be read: the pairs to build, in base order, and the list of what was left out and why."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from spectra.loaders.source import TensorSource
from spectra.updates import WeightPair


class Skipped(NamedTuple):
    """A tensor that is not analysed, and why."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class TunedInfo:
    """What kind of update this is, known before any weight is read.

    ranks and alphas : the distinct values over the adapted modules, ascending; empty for full
    fine-tuning. parameters, bytes : what the tuned side stores, each shared storage once.
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


@dataclass(frozen=True, slots=True)
class Planned:
    """One pair to come: its key and how to build it."""

    key: str
    build: Callable[[], WeightPair]


@dataclass(slots=True)
class Plan:
    """The whole reading of one tuned model against its base.

    alphas : for each adapted base key, the alpha of every module that adapts it, by the module's name in the
    adapter's configuration.
    """

    info: TunedInfo
    source: TensorSource
    pairs: dict[str, Planned] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    alphas: dict[str, dict[str, float]] = field(default_factory=dict)

    def add(self, planned: Planned) -> None:
        self.pairs[planned.key] = planned

    def skip(self, key: str, reason: str) -> None:
        self.skipped.append(Skipped(key, reason))
