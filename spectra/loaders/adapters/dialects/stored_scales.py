"""The configuration of a file that has none: alpha and scaling stand beside each module's factors."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from spectra.errors import FormatError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.source import TensorSource
from spectra.text import show

_LARGEST = 1e30


@dataclass(frozen=True, slots=True)
class StoredScales(AdapterConfig):
    """What the files of image models say, module by module.

    alphas, scalings : of each module by its name; a module whose method knows neither is not in them.
    """

    alphas: Mapping[str, float] = field(default_factory=dict)
    scalings: Mapping[str, float] = field(default_factory=dict)

    def rank_of(self, module: str, stored: int | None = None) -> int:  # noqa: ARG002
        """Return the stored rank: nothing else is declared."""
        return stored or self.r

    def alphas_of(self, module: str) -> tuple[float, ...]:
        """Return the module's alpha, 0 where its method has none."""
        return (self.alphas.get(module, 0.0),)

    def scaling_of(self, module: str, stored: int | None = None) -> float:  # noqa: ARG002
        """Return the factor of the module's update, 1 where its method has none."""
        return self.scalings.get(module, 1.0)


def number_of(source: TensorSource, key: str) -> float:
    """Return the number that a tensor of one value holds. Raises FormatError for anything that is no finite number."""
    stored = source.tensor(key)
    value = float(stored.double()) if stored.numel() == 1 else float("nan")
    if not abs(value) < _LARGEST:
        raise FormatError(f"'{show(key)}' {list(stored.shape)} holds no finite number below {_LARGEST:g}.")
    return value
