"""The one place where torch reads a pickle: `weights_only=True`, and never otherwise."""

import warnings
from pathlib import Path
from typing import IO, Any

import torch

from spectra.errors import UnsafeFileError
from spectra.text import show


def load(file: Path | IO[bytes], path: Path, *, mapped: bool = False) -> Any:
    """Return what torch's safe loader makes of a file, or of an open part of the file at `path`.

    Raises UnsafeFileError with torch's reason for whatever it refuses.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as fault:  # noqa: BLE001
        # torch raises a dozen types here; whatever it refuses is refused, and nothing else is tried.
        raise UnsafeFileError(
            f"{show(path.name)} is refused by torch's safe loader ({_reason(fault, path)}). "
            "Ask its author for safetensors."
        ) from None


def _reason(fault: Exception, path: Path) -> str:
    """Return torch's own reason, which stands below its advice to load the file unsafely."""
    text = str(fault).replace(str(path), path.name)
    return show(text.partition("WeightsUnpickler error:")[2].strip().partition("\n")[0] or text.partition("\n")[0])
