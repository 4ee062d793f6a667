"""The tensors of a distributed checkpoint, put together from their chunks one at a time.

A chunk is what `torch.save` wrote of a tensor, somewhere inside a file. That range of bytes is examined as a file of
its own would be, and then read by torch's safe loader, which sees nothing outside it.
"""

import io
from pathlib import Path
from typing import IO

import torch

from spectra.errors import FormatError
from spectra.loaders import pickle_header, safe_load
from spectra.loaders.dcp_metadata import Chunk, ChunkedTensor
from spectra.loaders.files import open_regular
from spectra.text import show


class Window(io.RawIOBase):
    """A range of the bytes of a file, as a file."""

    def __init__(self, file: IO[bytes], start: int, length: int) -> None:
        self._file, self._start, self._length, self._position = file, start, length, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._position = max(0, (0, self._position, self._length)[whence] + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]  # any writable buffer
        wanted = min(len(buffer), max(0, self._length - self._position))
        self._file.seek(self._start + self._position)
        found = self._file.read(wanted)
        buffer[: len(found)] = found
        self._position += len(found)
        return len(found)


def read(info: ChunkedTensor, key: str) -> torch.Tensor:
    """Return a tensor in its own dtype. Raises FormatError where a chunk is not what the metadata say."""
    if len(info.chunks) == 1:
        return _read_chunk(info.chunks[0], info.dtype, key)
    whole = torch.zeros(info.shape, dtype=getattr(torch, info.dtype))
    for chunk in info.chunks:
        found = _read_chunk(chunk, info.dtype, key)
        whole[tuple(slice(begin, begin + size) for begin, size in zip(chunk.offsets, chunk.shape, strict=True))] = found
    return whole


def _read_chunk(chunk: Chunk, dtype: str, key: str) -> torch.Tensor:
    name = f"{show(chunk.file.name)}, a chunk of '{show(key)}'"
    with open_regular(chunk.file) as file, io.BufferedReader(Window(file, chunk.start, chunk.length)) as window:
        declared = pickle_header.examine(window, name, chunk.file)[1].get("")
        if declared is None or declared.shape != chunk.shape or declared.dtype != dtype:
            what = "no tensor" if declared is None else f"{list(declared.shape)} of {declared.dtype}"
            raise FormatError(f"{name}, is {what} and not {list(chunk.shape)} of {dtype}. Save it again.")
        window.seek(0)
        found: torch.Tensor = safe_load.load(window, Path(chunk.file))
    return found.detach()
