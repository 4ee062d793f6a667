"""The contract of a finding: a rule that reads rows and says, in plain words, what they mean."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # a rule must be readable without torch: `spectra explain` is answered at once
    from spectra.loaders.plan import TunedInfo
    from spectra.metrics.layer import Layer
    from spectra.metrics.place import Place

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
    """What a rule may look at: the rows, the kind of update, and what the base holds.

    base_places : of every matrix of the base that the model's code builds, changed or not. changed_places : of those
    that the tuned side has something for, measured or not. targeted_places : of those that the adapter's configuration
    puts it on, None where it does not tell. base_packed : the scheme that the base is quantised in ("GPTQ",
    "Q4_K_M"), None where it is not.
    """

    layers: "Sequence[Layer]"
    info: "TunedInfo"
    epsilon: float
    base_places: "Sequence[Place]" = ()
    changed_places: "Sequence[Place]" = ()
    targeted_places: "Sequence[Place] | None" = None
    base_packed: str | None = None

    @property
    def measured(self) -> "list[Layer]":
        return [layer for layer in self.layers if layer.ok]

    def having(self, status: str) -> "list[Layer]":
        """The rows of one status, such as `metrics.status.ZERO`."""
        return [layer for layer in self.layers if layer.status == status]

    @property
    def is_adapter(self) -> bool:
        return self.info.method != "full fine-tuning"


@dataclass(frozen=True, slots=True)
class Rule:
    """One finding of the table: a stable code and name, the check, and what `spectra explain` says of it.

    summary : one line. severities : those it can have, worst first. meaning : what it says of a model and how it is
    decided, with its thresholds. advice : what to do, in general. doubts : when not to trust it. source : paper,
    section or equation.
    """

    code: str
    name: str
    summary: str
    severities: tuple[Severity, ...]
    meaning: str
    advice: str
    doubts: str
    source: str
    check: Callable[[Evidence], list["Raised"]]


@dataclass(frozen=True, slots=True)
class Raised:
    """What a check returns: the rule adds its code, name and source."""

    severity: Severity
    message: str
    advice: str
    layers: "Sequence[Layer]"
    numbers: dict[str, Any]
