"""The cache of bases: full decompositions of base matrices on disk, found again by what the matrices hold.

One file an entry. Its name is made of the shape and a hash of the matrix, so that an entry cannot grow stale,
and any number of models and runs share it. It is a safetensors file (`U`, `S`, `Vh`) whose last tensor is a
checksum of every byte before it: an entry with a byte changed is never believed. Entries are written beside
their place and moved into it, so that writers do not meet and a killed one leaves nothing that counts.
"""

import hashlib
import json
import mmap
import os
import re
import sys
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from spectra import __version__, table
from spectra.engine.decomposition import SVD
from spectra.engine.half import ABOVE, halved
from spectra.errors import FormatError, MachineError
from spectra.text import show

_FORMAT = "spectra basis 1"  # part of every hash: a new format has new names
_ENTRY = re.compile(r"\d+x\d+-[0-9a-f]{64}\.safetensors")
_BLOCK = 4 * 2**20  # bytes that one thread takes at a time
_CHECKSUM = 32
_HEADER = 600  # bytes of an entry beside its numbers, about
_STALE = 3600  # seconds after which an unfinished file belongs to nobody: an entry is written in one
_REMEDY = "Free space there, or set SPECTRA_CACHE to another folder."
_OTHER = "Set SPECTRA_CACHE to another folder."


def folder() -> Path:
    """Return where entries are kept: `bases` in `$SPECTRA_CACHE`, else in `spectra` in the user's cache folder.

    That is `$XDG_CACHE_HOME` or `~/.cache`, `~/Library/Caches` on macOS, `%LOCALAPPDATA%` on Windows.
    Raises MachineError where the system knows no home folder.
    """
    given = os.environ.get("SPECTRA_CACHE")
    return (Path(given) if given else _user_cache() / "spectra") / "bases"


def _user_cache() -> Path:
    variable = {"win32": "LOCALAPPDATA", "darwin": ""}.get(sys.platform, "XDG_CACHE_HOME")
    given = Path(os.environ.get(variable, ""))
    if given.is_absolute():
        return given
    try:
        home = Path.home()
    except RuntimeError:
        raise MachineError("this system knows no home folder: set SPECTRA_CACHE to a folder for the cache.") from None
    return home / {"win32": "AppData/Local", "darwin": "Library/Caches"}.get(sys.platform, ".cache")


def entry_bytes(shape: tuple[int, int]) -> int:
    """Return what the entry of an [m, n] matrix takes on disk: vectors in float16 for a large one, else in float32."""
    m, n = shape
    p = min(m, n)
    return (2 if p > ABOVE else 4) * (m + n) * p + 4 * p + _HEADER


@dataclass(frozen=True, slots=True)
class BasisCache:
    """The entries in one folder. Any number of processes may read and write it at once.

    half_above : smaller dimension of a matrix above which its vectors are kept in float16, see `halved`.
    """

    folder: Path
    half_above: int = ABOVE

    def entries(self) -> list[Path]:
        """Return the files of all entries, by name; other files in the folder are none of the cache's.

        Raises MachineError where the folder cannot be listed. One that does not exist has no entries.
        """
        return sorted(path for path in self._files() if _ENTRY.fullmatch(path.name))

    def bytes(self) -> int:
        """Return what all entries take on disk."""
        return sum(_size(path) for path in self.entries())

    def find(self, matrix: torch.Tensor) -> SVD | None:
        """Return the decomposition of a matrix, vectors in float32, or None where it is not kept.

        matrix : [m, n], rows = outputs, as float32. It is hashed only where some entry has its shape.

        Raises
        ------
        FormatError
            The entry is broken. It has been removed (or the message says why not): decompose the matrix.
        MachineError
            The entry or the folder cannot be read.

        Notes
        -----
        At 4096 x 4096 on 2 cores: 39 ms for the hash (SHA-256, with the processor's instructions; BLAKE2b took
        72) and 75 ms for mapping, checking and upcasting the entry.
        """
        start = "{}x{}-".format(*matrix.shape)
        if not any(path.name.startswith(start) for path in self.entries()):
            return None
        path = self.folder / _name(matrix)
        try:
            return _read(path)
        except FileNotFoundError:
            return None
        except OSError as fault:
            raise MachineError(
                f"the cache entry '{show(path, None)}' cannot be read: {fault.strerror}. {_OTHER}"
            ) from None
        except _BrokenEntryError as fault:
            raise FormatError(f"the cache entry '{show(path, None)}' is broken: {fault}; {_removed(path)}.") from None

    def keep(self, matrix: torch.Tensor, svd: SVD) -> Path:
        """Keep the full decomposition of a matrix, a large one's vectors in float16; return its file.

        Raises MachineError when the folder cannot be made or written, or the disk is full.
        """
        path = self.folder / _name(matrix)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clean()
        except OSError as fault:
            raise MachineError(f"'{show(self.folder, None)}' cannot be written: {fault.strerror}. {_REMEDY}") from None
        try:
            return table.write(path, _packed(halved(svd, self.half_above), path.name))
        except MachineError as fault:
            raise MachineError(f"{fault} {_REMEDY}") from None

    def _files(self) -> list[Path]:
        try:
            return list(self.folder.iterdir())
        except FileNotFoundError:
            return []
        except OSError as fault:
            raise MachineError(f"'{show(self.folder, None)}' cannot be listed: {fault.strerror}. {_OTHER}") from None

    def _clean(self) -> None:
        """Remove what writers that were killed have left. A file that another one removes first is gone too."""
        for path in self.folder.glob(".*x*-*"):
            try:
                if time.time() - path.stat().st_mtime > _STALE:
                    path.unlink()
            except FileNotFoundError:
                continue


class _BrokenEntryError(Exception):
    """An entry is not what was written. The text says in what."""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # another process has removed it since it was listed
        return 0


def _removed(path: Path) -> str:
    try:
        path.unlink(missing_ok=True)
    except OSError as fault:
        return f"it cannot be removed ({fault.strerror}) and is not used"
    return "it was removed"


def _name(matrix: torch.Tensor) -> str:
    """Name the entry of a matrix: by a hash of format, shape and content, row by row in float32."""
    m, n = matrix.shape
    content: Any = matrix.detach().float().contiguous().numpy()
    digest = hashlib.sha256(f"{_FORMAT} {m} {n}\n".encode())
    digest.update(_of_blocks(memoryview(content).cast("B"), lambda block: hashlib.sha256(block).digest()))
    return f"{m}x{n}-{digest.hexdigest()}.safetensors"


def _checksum(content: memoryview) -> bytes:
    """Return 32 bytes that change with any byte of the content: CRC-32 of every block, and a hash of those."""
    crcs = _of_blocks(content, lambda block: zlib.crc32(block).to_bytes(4, "little"))
    return hashlib.sha256(crcs).digest()


def _of_blocks(content: memoryview, of: Callable[[memoryview], bytes]) -> bytes:
    """Join what `of` gives for every block; hashlib and zlib let threads run side by side."""
    with ThreadPoolExecutor() as pool:
        return b"".join(pool.map(of, (content[at : at + _BLOCK] for at in range(0, len(content), _BLOCK))))


def _packed(svd: SVD, name: str) -> bytes:
    """Return an entry as the bytes of its file."""
    facts = {
        "name": name, "method": svd.method, "device": svd.device, "residual": svd.residual,
        "orthogonality": svd.orthogonality, "vector_error": svd.vector_error,
        "spectra": __version__, "torch": torch.__version__,
    }  # fmt: skip
    parts = {"U": svd.U.contiguous(), "S": svd.S.contiguous(), "Vh": svd.Vh.contiguous()}
    # The format orders tensors by the size of their numbers, so that the bytes of the checksum come last.
    parts["checksum"] = torch.zeros(_CHECKSUM, dtype=torch.uint8)
    content = memoryview(save(parts, {"spectra": json.dumps(facts)}))[:-_CHECKSUM]
    return b"".join((content, _checksum(content)))


def _read(path: Path) -> SVD:
    """Read an entry: nothing in it is looked at before the checksum of all of it is right."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size <= _CHECKSUM:
            raise _BrokenEntryError("it is too short")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    content = memoryview(mapped)
    if _checksum(content[:-_CHECKSUM]) != content[-_CHECKSUM:]:
        raise _BrokenEntryError("its checksum does not fit")
    length = int.from_bytes(content[:8], "little")
    header = json.loads(bytes(content[8 : 8 + length]))
    facts = json.loads(header["__metadata__"]["spectra"])
    if facts["name"] != path.name:
        raise _BrokenEntryError("it is the decomposition of another matrix")
    U, S, Vh = (_tensor(mapped, header[part], 8 + length) for part in ("U", "S", "Vh"))
    return SVD(
        U.to(S.dtype, copy=True), S.clone(), Vh.to(S.dtype, copy=True), facts["residual"], facts["orthogonality"],
        facts["method"], facts["device"], facts["vector_error"],
    )  # fmt: skip


_DTYPES = {"F16": torch.float16, "F32": torch.float32, "F64": torch.float64}


def _tensor(mapped: mmap.mmap, entry: dict[str, Any], start: int) -> torch.Tensor:
    shape = entry["shape"]
    begin = start + entry["data_offsets"][0]
    count = shape[0] * (shape[1] if len(shape) == 2 else 1)
    return torch.frombuffer(mapped, dtype=_DTYPES[entry["dtype"]], count=count, offset=begin).reshape(shape)
