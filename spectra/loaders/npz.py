"""One array of a NumPy archive (.npz), whose header `npz_header` has checked. Nothing is unpickled."""

import zipfile
import zlib
from pathlib import Path

import numpy
import torch

from spectra.errors import FormatError
from spectra.loaders.files import open_regular
from spectra.text import show


def read(path: Path, key: str) -> torch.Tensor:
    """Return an array as a tensor of its own dtype. Raises FormatError where it cannot be read."""
    with open_regular(path) as file:
        try:
            with numpy.load(file, allow_pickle=False) as archive:
                stored = archive[key]
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as fault:
            raise FormatError(
                f"{show(path.name)}: array '{show(key)}' cannot be read: {show(fault)}. Download it again."
            ) from None
    if stored.dtype.kind == "V":  # numpy has no bfloat16: its two bytes come as they are
        return torch.from_numpy(stored.view(numpy.uint16)).view(torch.bfloat16)
    return torch.from_numpy(numpy.ascontiguousarray(stored, stored.dtype.newbyteorder("="))).reshape(stored.shape)
