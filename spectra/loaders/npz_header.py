"""What a NumPy archive (.npz) holds, from its directory and the head of each member, without numpy.

An .npz is a zip archive of .npy files. Only the first bytes of each member are read, and nothing in
them is executed; arrays of Python objects, which numpy could only unpickle, are refused.
"""

import ast
import hashlib
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from spectra.errors import FormatError, UnsafeFileError, UnsupportedError
from spectra.loaders.files import open_regular, require_regular
from spectra.loaders.header import FileRecord, Header, TensorInfo
from spectra.text import show

MAGIC = b"\x93NUMPY"
MAX_MEMBERS, MAX_HEAD, MAX_DIMENSIONS, MAX_RATIO = 100_000, 10_000, 64, 100
_HARMLESS = 2**26
_NAME = 30  # where the name of a zip archive's first member begins
_KINDS = {
    "f2": "float16", "f4": "float32", "f8": "float64", "i1": "int8", "i2": "int16", "i4": "int32",
    "i8": "int64", "u1": "uint8", "u2": "uint16", "u4": "uint32", "u8": "uint64", "b1": "bool",
    "c8": "complex64", "c16": "complex128", "V2": "bfloat16",
}  # fmt: skip


def begins(head: bytes) -> bool:
    """Return whether a file begins as a zip archive whose first member is a .npy file."""
    if not head.startswith(b"PK\x03\x04") or len(head) < _NAME:
        return False
    (length,) = struct.unpack("<H", head[26:28])
    return head[_NAME : _NAME + length].endswith(b".npy")


def sniff(path: Path) -> bool:
    """Return whether a file is a zip archive of .npy members only."""
    with open_regular(path) as file:
        if not file.read(4).startswith(b"PK\x03\x04"):
            return False
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError):
        return path.suffix == ".npz"
    return bool(names) and all(name.endswith(".npy") for name in names)


def read(path: Path) -> Header:
    """Read the names, dtypes and shapes of an .npz file.

    Raises FormatError for a truncated archive and for a member whose header disagrees with its size,
    UnsafeFileError for arrays of Python objects.
    """
    size, name = require_regular(path), show(path.name)
    digest = hashlib.sha256()
    tensors: dict[str, TensorInfo] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MAX_MEMBERS:
                raise FormatError(f"{name} has {len(members)} members, over the limit of {MAX_MEMBERS}.")
            for member in members:
                key = member.filename.removesuffix(".npy")
                where = f"{name}: array '{show(key)}'"
                if key in tensors:
                    raise FormatError(f"{where} stands twice.")
                head = _head(archive, member, where)
                digest.update(head)
                tensors[key] = _info(head, member.file_size, where, path)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, ValueError, OSError) as fault:
        if isinstance(fault, FormatError | UnsafeFileError | UnsupportedError):
            raise
        raise FormatError(f"{name} is truncated or damaged: {show(fault)}. Download it again.") from None
    return Header("NumPy archive", (FileRecord(path.name, size, digest.hexdigest()),), tensors)


def read_weights(path: Path) -> Header:
    """Read the header of an archive whose arrays will be read: one that packs much into little is refused.

    Raises UnsafeFileError for it, and what `read` raises.
    """
    header = read(path)
    if header.bytes > max(MAX_RATIO * sum(record.bytes for record in header.files), _HARMLESS):
        raise UnsafeFileError(f"{show(path.name)} unpacks to over {MAX_RATIO} times its size: it is not opened.")
    return header


def _head(archive: zipfile.ZipFile, member: zipfile.ZipInfo, where: str) -> bytes:
    if member.flag_bits & 1:
        raise UnsupportedError(f"{where} is encrypted.")
    with archive.open(member) as file:
        return file.read(MAX_HEAD + 12)


def _info(head: bytes, stored: int, where: str, path: Path) -> TensorInfo:
    if not head.startswith(MAGIC) or len(head) < 12:
        raise FormatError(f"{where} is no .npy file.")
    wide = head[6] > 1
    start = 12 if wide else 10
    (length,) = struct.unpack("<I" if wide else "<H", head[8:start])
    if length > MAX_HEAD or start + length > len(head):
        raise FormatError(f"{where} has a header of {length} bytes, over the limit or over its end.")
    declared = _literal(head[start : start + length], where)
    shape, kind = declared.get("shape"), declared.get("descr")
    if not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS or not all(map(_is_size, shape)):
        raise FormatError(f"{where} has the impossible shape {show(shape)}.")
    info = TensorInfo(_dtype(kind, where), shape, path)
    if start + length + info.bytes != stored:
        raise FormatError(f"{where}: {list(shape)} takes {info.bytes} bytes, {stored - start - length} are there.")
    return info


def _literal(raw: bytes, where: str) -> dict[str, Any]:
    try:
        declared = ast.literal_eval(raw.decode("latin-1"))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        declared = None
    if not isinstance(declared, dict):
        raise FormatError(f"{where} has an unreadable header.")
    return declared


def _dtype(kind: Any, where: str) -> str:
    found = re.fullmatch(r"[<>|=]?([a-zA-Z]\d*)", kind) if isinstance(kind, str) else None
    if found is not None and found[1].startswith("O"):
        raise UnsafeFileError(f"{where} holds Python objects, which only unpickling could read: it is not opened.")
    dtype = _KINDS.get(found[1]) if found is not None else None
    if dtype is None:
        raise UnsupportedError(f"{where} has the dtype {show(repr(kind), 40)}: not numbers of one kind.")
    return dtype


def _is_size(extent: Any) -> bool:
    return isinstance(extent, int) and not isinstance(extent, bool) and 0 <= extent < 2**48
