"""What a checkpoint says it holds, known without reading a single weight and without torch."""

from dataclasses import dataclass, field
from pathlib import Path

BITS = {
    "float64": 64, "float32": 32, "float16": 16, "bfloat16": 16, "complex64": 64, "complex128": 128,
    "float8_e4m3fn": 8, "float8_e5m2": 8, "float8_e8m0fnu": 8, "float8_e4m3fnuz": 8,
    "float8_e5m2fnuz": 8, "int64": 64, "int32": 32, "int16": 16, "int8": 8, "uint8": 8, "uint16": 16,
    "uint32": 32, "uint64": 64, "bool": 8, "float4_e2m1fn_x2": 4, "float6_e2m3": 6, "float6_e3m2": 6,
}  # fmt: skip
FLOATS = ("float64", "float32", "float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as its container declares it.

    alias : an earlier tensor on the same storage. start : its first byte in the file, where it lies there flat.
    """

    dtype: str
    shape: tuple[int, ...]
    file: Path | None = None
    alias: str | None = None
    start: int | None = None

    @property
    def read_as(self) -> str:
        """The dtype that its values are handed out in: its own, where they are not packed."""
        return self.dtype

    @property
    def parameters(self) -> int:
        total = 1
        for extent in self.shape:
            total *= extent
        return total

    @property
    def bytes(self) -> int:
        return self.parameters * BITS[self.dtype] // 8


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file for the provenance: its name (never its folder), size and the SHA-256 of its header."""

    name: str
    bytes: int
    header_sha256: str


@dataclass(frozen=True, slots=True)
class Header:
    """Everything a checkpoint declares: container, files, tensors by name, and what looked odd."""

    container: str
    files: tuple[FileRecord, ...]
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def parameters(self) -> int:
        """Number of stored parameters, each shared storage counted once."""
        return sum(info.parameters for info in self.tensors.values() if info.alias is None)

    @property
    def bytes(self) -> int:
        return sum(info.bytes for info in self.tensors.values() if info.alias is None)
