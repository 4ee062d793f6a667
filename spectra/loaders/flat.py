"""Tensors that lie flat in a file, entry after entry and little-endian: read into memory of their own.

They are copied, not mapped: a map of a file that is cut short meanwhile ends the process when it is touched, and its
pages stay resident until the whole is unmapped.
"""

import math
import mmap
import os
import sys
from contextlib import ExitStack
from pathlib import Path

import torch

from spectra.errors import FormatError, InputError, MachineError, UnsupportedError
from spectra.loaders.files import open_regular
from spectra.loaders.header import BITS, TensorInfo
from spectra.text import show

_OWN_PAGES = 2**20  # bytes from which a tensor has them


class FlatFile:
    """A file open for reading, until it is let go: opened anew for each tensor, the system would not read ahead."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._opened = ExitStack()
        self._handle = self._opened.enter_context(open_regular(path)).fileno()

    def __del__(self) -> None:
        self._opened.close()

    def tensor(self, info: TensorInfo, key: str, index: int | None = None) -> torch.Tensor:
        """Return a tensor as stored, or its slice `[index]`, of which alone the bytes are read.

        Raises FormatError when the file ends before the tensor does, UnsupportedError for entries smaller than a byte.
        """
        assert info.start is not None
        dtype = _dtype(info, key)
        shape = info.shape if index is None else info.shape[1:]
        size = math.prod(shape) * dtype.itemsize
        if not size:
            return torch.empty(shape, dtype=dtype)
        buffer = _memory(size)
        found = self._fill(memoryview(buffer.numpy()), info.start + size * (index or 0))  # type: ignore[arg-type]
        if found < size:
            raise FormatError(
                f"{show(self.path.name)} is truncated: tensor '{show(key)}' takes {size} bytes, {found} are there. "
                "Download it again."
            )
        return buffer.view(dtype).reshape(shape)

    def _fill(self, view: memoryview, start: int) -> int:
        """Read as many bytes as the view has, or as the file has, and return how many."""
        filled = 0
        try:
            while filled < len(view) and (got := os.preadv(self._handle, [view[filled:]], start + filled)):
                filled += got
        except OSError as fault:
            raise InputError(f"'{show(self.path.name)}' cannot be read: {fault.strerror}.") from None
        return filled


def _memory(size: int) -> torch.Tensor:
    """Return bytes to read into. Pages of their own go back when they are let go, where the heap would keep holes."""
    if size < _OWN_PAGES:
        return torch.empty(size, dtype=torch.uint8)
    return torch.frombuffer(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype=torch.uint8)


def _dtype(info: TensorInfo, key: str) -> torch.dtype:
    if sys.byteorder != "little":
        raise MachineError("tensors are stored little-endian, and this machine's numbers are not.")
    if BITS[info.dtype] % 8:
        raise UnsupportedError(f"'{show(key)}' is stored as {info.dtype}, less than a byte an entry: it is not read.")
    found: torch.dtype = getattr(torch, info.dtype)
    return found
