"""What is asked of an analysis, checked once."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from spectra.engine.choose import Request, require_device, require_method, require_spectrum
from spectra.engine.resemblance import SIDES, Side
from spectra.errors import UsageError
from spectra.findings.rules import chosen
from spectra.metrics.intruders import require_options
from spectra.text import nearest, show

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, slots=True)
class Settings:
    """k, epsilon, side ("left", "right", "both"), method, device and spectrum of one analysis.

    select, ignore : the findings to look for, by codes (SP201), starts of codes (SP2) and names; all by default.

    Raises UsageError for a value outside its range, MachineError for a device that is not there.
    """

    k: int = 10
    epsilon: float = 0.5
    side: str = "left"
    method: str = "auto"
    device: str = "auto"
    spectrum: str = "auto"
    select: Sequence[str] = ()
    ignore: Sequence[str] = ()

    def __post_init__(self) -> None:
        require_options(self.k, self.epsilon)
        if self.side not in (*SIDES, "both"):
            like = nearest(self.side, (*SIDES, "both"))
            raise UsageError(f"side '{show(self.side)}' is unknown" + (f"; did you mean '{like}'?" if like else "."))
        require_method(self.method)
        require_spectrum(self.spectrum)
        chosen(self.select, self.ignore)
        object.__setattr__(self, "device", require_device(self.device))

    @property
    def sides(self) -> tuple[Side, ...]:
        return SIDES if self.side == "both" else tuple(side for side in SIDES if side == self.side)

    @property
    def request(self) -> Request:
        """What the engine is asked for each pair."""
        return Request(self.k, self.epsilon, self.sides, self.method, self.device, self.spectrum)

    def to_dict(self) -> dict[str, Any]:
        """Return how is measured; what is looked for is another matter."""
        return {name: value for name, value in asdict(self).items() if name not in ("select", "ignore")}
