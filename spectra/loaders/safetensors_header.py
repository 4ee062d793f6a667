"""The header of a safetensors file, read and checked in full before any tensor is touched.

The reader library checks much of this too; what it lets pass (duplicate names, a header of 100 MB)
is refused here, and every refusal names the tensor.
"""

import hashlib
from pathlib import Path
from typing import IO, Any

from spectra.errors import FormatError
from spectra.loaders import strict_json
from spectra.loaders.files import HEAD, open_regular, what_it_is_instead
from spectra.loaders.header import BITS, FileRecord, Header, TensorInfo
from spectra.text import count, show

MAX_HEADER = 25 * 2**20
MAX_DIMENSIONS = 64
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "BOOL": "bool", "F4": "float4_e2m1fn_x2", "F6_E2M3": "float6_e2m3", "F6_E3M2": "float6_e3m2",
}  # fmt: skip


def sniff(head: bytes) -> bool:
    """Return whether the first bytes can be those of a safetensors file."""
    return len(head) >= 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= 2**40


def read(path: Path) -> Header:
    """Read and check the header of one safetensors file.

    Raises FormatError for anything the format forbids: a header longer than the file or than 25 MB,
    bad JSON, names that stand twice, unknown dtypes, ranges that overlap, leave holes, or end
    before or after the data does.
    """
    name = show(path.name)
    with open_regular(path) as file:
        size = file.seek(0, 2)
        file.seek(0)
        raw = _header_bytes(file, size, name)
    entries = strict_json.parse(raw, f"the header of {name}")
    metadata = entries.pop("__metadata__", None)
    metadata = {} if metadata is None else metadata  # MLX writes null
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise FormatError(f"{name}: its __metadata__ must map texts to texts. Save it again.")
    ranges: list[tuple[int, int, str]] = []
    tensors: dict[str, TensorInfo] = {}
    for key, entry in entries.items():
        if not key.isascii():
            _require_unicode(key, name)
        tensors[key], begin, end = _entry(entry, f"{name}: tensor '{show(key)}'", path, 8 + len(raw))
        ranges.append((begin, end, key))
    _check_ranges(ranges, size - 8 - len(raw), name)
    record = FileRecord(path.name, size, hashlib.sha256(raw).hexdigest())
    return Header("safetensors", (record,), tensors, metadata)


def _header_bytes(file: IO[bytes], size: int, name: str) -> bytes:
    head = file.read(HEAD)
    instead = None if sniff(head) else what_it_is_instead(head)
    if instead:
        raise FormatError(f"{name} holds no weights: {instead}.")
    if size < 8:
        raise FormatError(f"{name} is {count(size, 'byte')}: too short for safetensors. Download it again.")
    length = int.from_bytes(head[:8], "little")
    if length > size - 8:
        raise FormatError(
            f"{name} is truncated or no safetensors file: it promises a header of {length} bytes and "
            f"has {size - 8} after the length. Download it again."
        )
    if length > MAX_HEADER:
        raise FormatError(
            f"{name}: its header of {length} bytes is over the limit of {MAX_HEADER}. Split the file into shards."
        )
    file.seek(8)
    raw = file.read(length)
    if raw[:1] != b"{":
        raise FormatError(f"{name} is no safetensors file: its header must start with '{{'. Download it again.")
    return raw


def _require_unicode(key: str, name: str) -> None:
    try:
        key.encode()
    except UnicodeEncodeError:
        raise FormatError(f"{name}: the name '{show(key)}' holds half a character (a lone surrogate).") from None


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**62


def _entry(entry: Any, where: str, path: Path, data: int) -> tuple[TensorInfo, int, int]:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= entry.keys():
        raise FormatError(f"{where} lacks dtype, shape or data_offsets. Save it again.")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise FormatError(f"{where} has the unknown dtype '{show(entry['dtype'], 40)}'. Save it as float32.")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS or not all(map(_is_size, shape)):
        raise FormatError(f"{where} has the impossible shape {show(shape, 60)}. Save it again.")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_size, offsets)):
        raise FormatError(f"{where} has the impossible data_offsets {show(offsets, 60)}. Save it again.")
    begin, end = offsets
    info = TensorInfo(dtype, tuple(shape), path, start=data + begin)
    needed = (info.parameters * BITS[dtype] + 7) // 8
    if end - begin != needed:
        raise FormatError(
            f"{where}: {show(shape, 60)} of {dtype} takes {show(needed, 40)} bytes, its range holds {end - begin}. "
            "Save it again."
        )
    return info, begin, end


def _check_ranges(ranges: list[tuple[int, int, str]], available: int, name: str) -> None:
    position = 0
    for begin, end, key in sorted(ranges):
        if begin != position:
            fault = "overlaps the tensor before it" if begin < position else "leaves a hole before it"
            raise FormatError(
                f"{name}: tensor '{show(key)}' {fault} (at byte {begin}, not {position}). Save or download it again."
            )
        position = end
    if position > available:
        raise FormatError(
            f"{name} is truncated: {position} bytes of tensors are promised, {available} are there. Download it again."
        )
    if position < available:
        raise FormatError(
            f"{name}: {available - position} bytes after its last tensor belong to nothing. Download it again."
        )
