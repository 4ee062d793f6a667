"""The header of a GGUF file: what it declares and its tensors by name, nothing dequantised.

Every count and length in the file is held against the bytes that are left before it is believed, so
that a file of 49 bytes cannot ask for terabytes. Numbers are little-endian; versions 2 and 3.

The layout: magic `GGUF`, version u32, number of tensors u64, of key-value pairs u64; the pairs (key,
type u32, value); one record a tensor (name, dimensions u32, extents u64 with the innermost first,
type u32, offset u64); padding; the data. A text is a u64 length and its UTF-8 bytes.
"""

import hashlib
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

from spectra.errors import FormatError, UnsupportedError
from spectra.loaders.files import open_regular, require_regular
from spectra.loaders.header import BITS, FileRecord, Header, TensorInfo
from spectra.text import listing, show

MAGIC = b"GGUF"
MAX_DIMENSIONS, MAX_TENSORS, MAX_ITEMS, MAX_TEXT, MAX_EXTENT = 4, 500_000, 4_000_000, 65_535, 2**48
# ggml type -> name (torch's where it has the type), elements a block, bytes a block (gguf 0.19, GGML_QUANT_SIZES).
TYPES = {
    0: ("float32", 1, 4), 1: ("float16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 40), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("int8", 1, 1), 25: ("int16", 1, 2), 26: ("int32", 1, 4), 27: ("int64", 1, 8), 28: ("float64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("bfloat16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17), 40: ("NVFP4", 64, 36), 41: ("Q1_0", 128, 18),
}  # fmt: skip
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _ARRAY = 8, 9
# general.file_type -> what people call such a file (llama.cpp's llama_ftype, without MOSTLY_).
_FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4",
    40: "Q1_0",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class BlockTensor(TensorInfo):
    """A tensor of a GGUF file: its ggml type, and the bytes that it takes from `start`.

    A quantised one lies in blocks along its rows, and is handed out dequantised.
    """

    kind: int = 0
    stored: int = 0

    @property
    def bytes(self) -> int:
        return self.stored

    @property
    def read_as(self) -> str:
        return "float32" if self.is_quantised else self.dtype

    @property
    def is_quantised(self) -> bool:
        return self.dtype not in BITS


def sniff(head: bytes) -> bool:
    """Return whether the first bytes are those of a GGUF file."""
    return head.startswith(MAGIC)


def file_type(header: Header) -> str:
    """Name the mixture of types a file was quantised with, as `Q4_K_M`; else the types that are in it."""
    declared = whole(header.metadata.get("general.file_type"))
    name = _FILE_TYPES.get(declared) if declared is not None else None
    return name or listing(dict.fromkeys(info.dtype for info in quantised(header)))


def whole(told: str | None) -> int | None:
    """Return a number of the metadata, None where there is none below a billion."""
    return int(told) if told is not None and told.isdecimal() and len(told) < 10 else None


def quantised(header: Header) -> list[BlockTensor]:
    """Return the quantised tensors of a header; those of other containers are none of these."""
    return [info for info in header.tensors.values() if isinstance(info, BlockTensor) and info.is_quantised]


def read(path: Path) -> Header:
    """Read and check the header of one GGUF file.

    Metadata keeps texts and numbers as texts; arrays (the tokenizer) are passed over. Raises FormatError
    for counts, lengths and offsets the file cannot hold, UnsupportedError for other versions and types.
    """
    size, name = require_regular(path), show(path.name)
    if not size:
        raise FormatError(f"{name} is empty: the download did not finish.")
    with open_regular(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as raw:
        cursor = _Cursor(raw, size, name)
        magic, version, n_tensors, n_pairs = (cursor.take(4), *cursor.numbers("<IQQ"))
        if magic != MAGIC:
            raise FormatError(f"{name} is no GGUF file.")
        if version not in (2, 3):
            what = "big-endian GGUF" if version and not version & 0xFFFF else f"GGUF version {version}"
            raise UnsupportedError(f"{name} is {what}; little-endian files of the versions 2 and 3 are read.")
        cursor.afford(n_pairs, 13, "key-value pairs")
        pairs = [cursor.pair() for _ in range(n_pairs)]
        cursor.afford(n_tensors, 24, "tensors", MAX_TENSORS)
        records = [cursor.record() for _ in range(n_tensors)]
        digest = hashlib.sha256(raw[: cursor.position]).hexdigest()
    metadata = dict(pairs)
    if len(metadata) != len(pairs):
        raise FormatError(f"{name}: a key of its metadata stands twice.")
    alignment = _alignment(metadata, name)
    start = cursor.position + -cursor.position % alignment
    tensors = _placed(records, (start, size - start), alignment, name, path)
    return Header("GGUF", (FileRecord(path.name, size, digest),), tensors, metadata)


def _alignment(metadata: dict[str, str], name: str) -> int:
    told = metadata.get("general.alignment", "32")
    value = whole(told)
    if not value or value > 2**20 or value & (value - 1):
        raise FormatError(f"{name}: general.alignment is {show(told, 40)}, not a power of two.")
    return value


@dataclass(frozen=True, slots=True)
class _Record:
    name: str
    kind: int
    shape: tuple[int, ...]
    offset: int
    stored: int


def _placed(
    records: list[_Record], data: tuple[int, int], alignment: int, name: str, path: Path
) -> dict[str, TensorInfo]:
    """Check that the tensors lie in the data (first byte, length) one after the other; return them in file order."""
    tensors: dict[str, TensorInfo] = {}
    (start, available), position = data, 0
    for record in sorted(records, key=lambda record: record.offset):
        where = f"{name}: tensor '{show(record.name)}'"
        if record.offset % alignment or record.offset < position:
            raise FormatError(f"{where} begins at byte {record.offset}: not aligned, or inside the tensor before it.")
        position = record.offset + record.stored
        if position > available:
            raise FormatError(f"{where} is truncated: it ends at byte {position} of {max(available, 0)}.")
    for record in records:
        if record.name in tensors:
            raise FormatError(f"{name}: the tensor '{show(record.name)}' stands twice.")
        tensors[record.name] = BlockTensor(
            TYPES[record.kind][0],
            record.shape,
            path,
            kind=record.kind,
            start=start + record.offset,
            stored=record.stored,
        )
    return tensors


class _Cursor:
    """Reads forward through the header and never past the end of the file."""

    def __init__(self, raw: mmap.mmap, size: int, name: str) -> None:
        self.raw, self.size, self.name, self.position = raw, size, name, 0

    def afford(self, count: int, least: int, what: str, most: int = MAX_ITEMS) -> None:
        """Refuse a count of things that take at least `least` bytes each when they cannot all be there."""
        left = self.size - self.position
        if count * least > left or count > most:
            raise FormatError(f"{self.name} claims {count} {what} with {left} bytes left. Download it again.")

    def take(self, length: int) -> bytes:
        left = self.size - self.position
        if length > left:
            raise FormatError(f"{self.name} is truncated: {length} bytes wanted, {left} left. Download it again.")
        self.position += length
        return self.raw[self.position - length : self.position]

    def numbers(self, form: str) -> tuple[int, ...]:
        return struct.unpack(form, self.take(struct.calcsize(form)))

    def text(self) -> str:
        (length,) = self.numbers("<Q")
        return self.take(length).decode("utf-8", "backslashreplace")

    def pair(self) -> tuple[str, str]:
        """Read one key and its value; an array's value is its length."""
        key = self.text()
        (kind,) = self.numbers("<I")
        if kind == _TEXT:
            return key, self.text()[:MAX_TEXT]
        if kind == _ARRAY:
            return key, f"{self.skip_array()} items"
        return key, str(self.numbers("<" + self.scalar(kind))[0])

    def scalar(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise FormatError(f"{self.name} has a value of the unknown type {kind}.")
        return _SCALARS[kind]

    def skip_array(self) -> int:
        kind, count = self.numbers("<IQ")
        if kind == _ARRAY:
            raise UnsupportedError(f"{self.name} has an array of arrays in its metadata.")
        if kind != _TEXT:
            self.afford(count, struct.calcsize(self.scalar(kind)), "numbers")
            self.position += count * struct.calcsize("<" + self.scalar(kind))
            return count
        self.afford(count, 8, "texts")
        raw, position, size = self.raw, self.position, self.size
        for _ in range(count):
            position += 8 + int.from_bytes(raw[position : position + 8], "little")
            if position > size:
                raise FormatError(f"{self.name} is truncated inside a list of texts.")
        self.position = position
        return count

    def record(self) -> _Record:
        """Read one tensor's record; the shape is turned so that the last axis is the innermost."""
        key = self.text()
        (dimensions,) = self.numbers("<I")
        where = f"{self.name}: tensor '{show(key)}'"
        if dimensions > MAX_DIMENSIONS:
            raise FormatError(f"{where} has {dimensions} dimensions, over the limit of {MAX_DIMENSIONS}.")
        shape = self.numbers(f"<{dimensions}Q")[::-1]
        if any(extent >= MAX_EXTENT for extent in shape):
            raise FormatError(f"{where} has the impossible shape {list(shape)}.")
        kind, offset = self.numbers("<IQ")
        if kind not in TYPES:
            raise UnsupportedError(f"{where} has the type {kind}, which this version of spectra does not know.")
        dtype, block, block_bytes = TYPES[kind]
        innermost = shape[-1] if shape else 1
        if innermost % block:
            raise FormatError(f"{where}: rows of {innermost} are no whole blocks of {dtype} ({block}).")
        elements = 1
        for extent in shape:
            elements *= extent
        return _Record(key, kind, shape, offset, elements // block * block_bytes)
