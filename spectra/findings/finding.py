"""The contract of a finding: a rule that reads rows and says, in plain words, what they mean."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from spectra.loaders.plan import TunedInfo
from spectra.metrics.layer import Layer

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing worth saying. code : stable; keys : the matrices it concerns; numbers : what triggered it."""

    code: str
    name: str
    severity: Severity
    message: str
    advice: str
    source: str
    keys: tuple[str, ...]
    numbers: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a rule may look at: the rows, the kind of update, and the notes of the loaders."""

    layers: Sequence[Layer]
    info: TunedInfo
    base_label: str
    epsilon: float

    @property
    def measured(self) -> list[Layer]:
        return [layer for layer in self.layers if layer.ok]

    @property
    def is_adapter(self) -> bool:
        return self.info.method != "full fine-tuning"


@dataclass(frozen=True, slots=True)
class Rule:
    """A code, a name, where the idea comes from, and the check that returns findings."""

    code: str
    name: str
    source: str
    check: Callable[[Evidence], list["Raised"]]


@dataclass(frozen=True, slots=True)
class Raised:
    """What a check returns: the rule adds its code, name and source."""

    severity: Severity
    message: str
    advice: str
    layers: Sequence[Layer]
    numbers: dict[str, Any]
