"""The contract of a packing scheme: the tensors of one packed weight, and the weight that is in them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from spectra.errors import FormatError, UnsupportedError
from spectra.loaders.header import TensorInfo
from spectra.loaders.quantization.declared import UNQUANTISED
from spectra.loaders.quantization.signs import Packing
from spectra.loaders.source import TensorSource, part_of
from spectra.text import listing, show

_SMALL = 2**16  # bytes of a tensor that only describes others
_SAVE = "Save or download it again."


class Parts(Protocol):
    """Reads a tensor of a packed weight by its role."""

    def __call__(self, role: str) -> torch.Tensor: ...


@dataclass(frozen=True, slots=True)
class Weight:
    """A packed weight, checked and ready to be dequantised.

    shape : of the weight, in the layout of the model; dtype : of the entries as stored, "nf4" or "int4"; value :
    from the packed tensors to the weight in float32; stacked : whether they all have its first axis, so that value
    makes one expert of a stack from their slices; note : what a reader must know of every such weight.
    """

    shape: tuple[int, ...]
    dtype: str
    value: Callable[[Parts], torch.Tensor]
    stacked: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Packed:
    """One packed weight as it lies in a checkpoint. declared : what the configuration declares of its quantisation."""

    packing: Packing
    source: TensorSource
    declared: Mapping[str, Any]

    @property
    def key(self) -> str:
        return self.packing.key

    def __contains__(self, role: str) -> bool:
        return role in self.packing.parts

    def info(self, role: str, *dtypes: str) -> TensorInfo:
        """Return a tensor's declaration. Raises FormatError when it is missing or of none of these dtypes."""
        name = self.packing.parts.get(role)
        if name is None:
            raise self.fault(f"its {role} is missing ({listing(self.packing.parts.values(), 4)} is there)")
        info = self.source.header.tensors[name]
        self.require(not dtypes or info.dtype in dtypes, f"its {role} is {info.dtype}, not {' or '.join(dtypes)}")
        return info

    def tensor(self, role: str) -> torch.Tensor:
        return self.source.tensor(self.packing.parts[role])

    def part(self, role: str, index: int) -> torch.Tensor:
        """Return the slice of a tensor that belongs to one expert of a stack."""
        return part_of(self.source, self.packing.parts[role], index)

    def small(self, role: str) -> torch.Tensor:
        """Return a tensor that describes others. Raises FormatError for one too large for that, before reading it."""
        info = self.info(role)
        self.require(info.bytes <= _SMALL, f"its {role} is {list(info.shape)}: too large to be a description")
        return self.tensor(role)

    def extents(self, values: object) -> tuple[int, ...]:
        """Return a shape from a file's own words. Raises FormatError for anything that is no shape."""
        found = values.tolist() if isinstance(values, torch.Tensor) else values
        fits = isinstance(found, list) and 0 < len(found) <= 8 and all(whole(extent) is not None for extent in found)
        self.require(fits, f"it says of itself the shape {show(found, 40)}")
        return tuple(found)  # type: ignore[arg-type]

    def require(self, holds: bool, reason: str) -> None:
        """Raise FormatError where what must hold does not."""
        if not holds:
            raise self.fault(reason)

    def fault(self, reason: str, remedy: str = _SAVE) -> FormatError:
        """Return the error that says what of this weight is broken."""
        return FormatError(f"'{show(self.key)}' is packed by {self.packing.scheme}, but {show(reason, 200)}. {remedy}")

    def unread(self, what: str, remedy: str = UNQUANTISED) -> UnsupportedError:
        """Return the error that names what of this scheme is not read."""
        return UnsupportedError(
            f"'{show(self.key)}' is packed by {self.packing.scheme} {show(what, 200)}, "
            f"which this version does not unpack. {remedy}"
        )


def whole(value: object) -> int | None:
    """Return a positive whole number from a configuration, else None."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**62 else None


def ceil(extent: int, step: int) -> int:
    """Return how many steps cover an extent."""
    return -(-extent // step)
