"""What a distributed checkpoint of torch (DCP) declares: FSDP's folders of `.metadata` and `__<rank>_<i>.distcp`.

`.metadata` is a pickle of a few classes of `torch.distributed.checkpoint`. It is followed as `pickle_walk` does,
nothing in it is imported or called, and a class beyond those few is refused by name. It says for every tensor
its shape and dtype and the chunks that it is cut into, and for every chunk the file and the range of bytes with
what `torch.save` wrote of it. All of it is checked here: chunks tile their tensor, ranges lie in their files and
apart from one another, and each is long enough for its chunk. Torch-free.
"""

import hashlib
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

from spectra.errors import FormatError, UnsafeFileError, UnsupportedError
from spectra.loaders.files import exists, names_in, open_regular, require_plain_name, require_regular
from spectra.loaders.header import BITS, FileRecord, Header, TensorInfo
from spectra.loaders.pickle_walk import MAX_PICKLE, Global, Machine, few, walk
from spectra.text import count, listing, show

NAME, SUFFIX = ".metadata", ".distcp"
MAX_DIMENSIONS, MAX_CHUNKS = 16, 100_000
_ITS_MODULES = ("torch.distributed.checkpoint.metadata", "torch.distributed._shard.sharded_tensor.metadata")
_CLASSES = (
    "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties", "ChunkStorageMetadata",
    "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING", "MEM_FORMAT_ENCODING",
)  # fmt: skip
_OTHERS = (
    "torch.distributed.checkpoint.filesystem _StorageInfo", "torch Size", "torch.serialization _get_layout",
    "collections OrderedDict", "builtins set", "pathlib PosixPath", "pathlib WindowsPath", "pathlib PurePosixPath",
    "pathlib._local PosixPath", "pathlib._local WindowsPath", "uuid UUID",
)  # fmt: skip
# accelerate and the FSDP of transformers put the model's checkpoint into such a folder, beside the optimizer's.
_NESTED = "pytorch_model_fsdp"


@dataclass(frozen=True, slots=True)
class Chunk:
    """A block of a tensor: where it begins and its shape; the bytes of the file that hold it."""

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    file: Path
    start: int
    length: int


@dataclass(frozen=True, slots=True)
class ChunkedTensor(TensorInfo):
    """A tensor in chunks, which tile it."""

    chunks: tuple[Chunk, ...] = ()


def folder_of(path: Path) -> Path | None:
    """Return the folder of the distributed checkpoint at a path or one below it, None where there is none."""
    if path.name == NAME:
        return path.parent
    if exists(path / NAME):
        return path
    below = [path / name for name in names_in(path) if name.startswith(_NESTED)] if path.is_dir() else []
    found = [folder for folder in below if exists(folder / NAME)]
    return found[0] if len(found) == 1 else None


def read(folder: Path) -> Header:
    """Read and check what a distributed checkpoint declares of its tensors. Its other objects (steps) are no weights.

    Raises UnsafeFileError for foreign classes, for files outside the folder and for sizes that their bytes cannot
    hold; FormatError for damage; UnsupportedError for transformed data.
    """
    pickled, root = follow(folder)
    where = _where(folder)
    declared = _attribute(root, "state_dict_metadata", dict, where)
    stored = _attribute(root, "storage_data", dict, where)
    files = _Files(folder, where)
    found = {key: _tensor(key, info, stored, files) for key, info in declared.items() if _is_tensor(info)}
    if not found:
        raise FormatError(f"{where} names no tensors ({listing(map(str, declared), 5) or 'it is empty'}).")
    tensors = {str(key): info for key, info in found.items()}
    _require_apart([chunk for info in found.values() for chunk in info.chunks], where)
    digest = hashlib.sha256(pickled).hexdigest()
    records = [FileRecord(NAME, len(pickled), digest)]
    records += [FileRecord(name, size, digest) for name, size in files.sizes.items()]
    return Header(f"DCP, {count(len(records) - 1, 'file')}", tuple(records), dict(tensors))


def follow(folder: Path) -> tuple[bytes, Any]:
    """Return the pickle of a checkpoint's metadata and what it would build, in symbols.

    Raises UnsafeFileError naming the classes that it would import and tensors need none of, FormatError for damage.
    """
    if require_regular(folder / NAME) > MAX_PICKLE:
        raise UnsafeFileError(f"{_where(folder)} is over {MAX_PICKLE} bytes. Ask for safetensors.")
    with open_regular(folder / NAME) as file:
        pickled = file.read(MAX_PICKLE)
    return pickled, walk(io.BytesIO(pickled), _where(folder), _Builder())


def _where(folder: Path) -> str:
    return f"{show(folder.name)}/{NAME}"


class Object(NamedTuple):
    """An instance that a pickle would make of one of the classes above: the class, and its attributes."""

    kind: str
    state: dict[str, Any]


class _Builder(Machine):
    """Follows the pickle of a `Metadata` and keeps the attributes that its objects would have."""

    newest = 5

    def is_safe(self, found: str) -> bool:
        module, _, name = found.partition(" ")
        known = (module in _ITS_MODULES and name in _CLASSES) or found in _OTHERS
        return known or (module == "torch" and name in BITS)

    def _reduce(self, _: Any) -> None:
        function, arguments = self.stack[-2:]
        del self.stack[-2:]
        name = function.name.rpartition(" ")[2] if isinstance(function, Global) else ""
        if name == "Size":
            self.stack.append(few(arguments[0]))
        elif name == "OrderedDict":
            self.stack.append({})
        else:
            self.stack.append(Object(name, {}))

    _newobj = _reduce

    def _build(self, _: Any) -> None:
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, Object) and isinstance(state, dict):
            target.state.update(state)
        elif isinstance(target, Object) and target.kind == "TensorProperties" and isinstance(state, tuple):
            target.state["dtype"] = state[0]

    def _setitem(self, _: Any) -> None:
        key, value = self.stack[-2:]
        del self.stack[-2:]
        self._put_item(key, value)

    def _setitems(self, _: Any) -> None:
        items = self._marked()
        for key, value in zip(items[::2], items[1::2], strict=True):
            self._put_item(key, value)

    def _put_item(self, key: Any, value: Any) -> None:
        target = self.stack[-1]
        known = _index(key) if isinstance(key, Object) else key
        if isinstance(target, dict) and isinstance(known, str | int | _Index):
            target[known] = value


class _Index(NamedTuple):
    """The key of a chunk's storage: the tensor's name and where the chunk begins."""

    key: str
    offsets: tuple[int, ...]


def _index(found: Object) -> _Index | None:
    key, offsets = found.state.get("fqn"), found.state.get("offset")
    return _Index(key, offsets) if isinstance(key, str) and _is_shape(offsets) else None


def _is_shape(value: Any) -> TypeGuard[tuple[int, ...]]:
    return (
        isinstance(value, tuple)
        and len(value) <= MAX_DIMENSIONS
        and all(type(extent) is int and 0 <= extent < 2**48 for extent in value)
    )


def _attribute(found: Any, name: str, kind: type, where: str) -> Any:
    """Return an attribute of an object of the pickle. Raises FormatError where it is not of its kind."""
    value = found.state.get(name) if isinstance(found, Object) else None
    if not isinstance(value, kind):
        raise FormatError(f"{where} is damaged or no torch checkpoint: it has no {name}. Save it again.")
    return value


def _is_tensor(info: Any) -> bool:
    return isinstance(info, Object) and info.kind == "TensorStorageMetadata"


@dataclass(slots=True)
class _Files:
    """The data files of a checkpoint, each looked at once."""

    folder: Path
    where: str
    sizes: dict[str, int] = field(default_factory=dict)

    def size(self, name: Any) -> int:
        plain = require_plain_name(name, SUFFIX, self.where)
        if plain not in self.sizes:
            self.sizes[plain] = require_regular(self.folder / plain)
        return self.sizes[plain]


def _tensor(key: Any, info: Object, stored: Mapping[Any, Any], files: _Files) -> ChunkedTensor:
    where = f"{files.where}: tensor '{show(key)}'"
    shape, blocks = info.state.get("size"), info.state.get("chunks")
    dtype = _attribute(info.state.get("properties"), "dtype", Global, where).name.partition(" ")[2]
    if not _is_shape(shape) or not isinstance(blocks, list) or not 0 < len(blocks) <= MAX_CHUNKS or dtype not in BITS:
        raise FormatError(f"{where} has an impossible shape, dtype or number of chunks. Save it again.")
    found = [_chunk(str(key), block, shape, dtype, stored, files) for block in blocks]
    chunks = [chunk for chunk in found if chunk is not None]
    _require_tiled(shape, chunks, where)
    first = chunks[0].file if chunks else files.folder / NAME
    return ChunkedTensor(dtype, shape, first, chunks=tuple(chunks))


def _chunk(
    key: str, block: Any, shape: tuple[int, ...], dtype: str, stored: Mapping[Any, Any], files: _Files
) -> Chunk | None:
    """Return a chunk whose bytes are there, None for an empty one."""
    where = f"{files.where}: tensor '{show(key)}'"
    offsets, sizes = _attribute(block, "offsets", tuple, where), _attribute(block, "sizes", tuple, where)
    fits = _is_shape(offsets) and _is_shape(sizes) and len(offsets) == len(sizes) == len(shape)
    if not fits or any(begin + size > whole for begin, size, whole in zip(offsets, sizes, shape, strict=True)):
        raise FormatError(f"{where} of shape {list(shape)} has a chunk outside it. Save it again.")
    if 0 in sizes:
        return None
    place = stored.get(_Index(key, offsets))
    if not isinstance(place, Object) or place.kind != "_StorageInfo":
        raise FormatError(f"{where}: the chunk at {list(offsets)} is stored nowhere. Save it again.")
    if place.state.get("transform_descriptors"):
        raise UnsupportedError(f"{where} was compressed or encrypted when it was saved. Save it without transforms.")
    name, extent = place.state.get("relative_path"), (place.state.get("offset"), place.state.get("length"))
    size = files.size(name)
    if not _is_shape(extent) or sum(extent) > size:
        raise FormatError(f"{where}: the chunk at {list(offsets)} ends after '{show(name)}' does. Download it again.")
    (start, length), needed = extent, math.prod(sizes) * BITS[dtype] // 8
    if needed > length:
        raise UnsafeFileError(
            f"{where}: a chunk of {list(sizes)} claims {needed} bytes of {length}. Save it again, or as safetensors."
        )
    return Chunk(offsets, sizes, files.folder / str(name), start, length)


def _require_tiled(shape: tuple[int, ...], chunks: list[Chunk], where: str) -> None:
    """Check that chunks cover every element once: none overlap, and they have as many elements as the tensor."""
    if sum(math.prod(chunk.shape) for chunk in chunks) != math.prod(shape):
        raise FormatError(f"{where} of shape {list(shape)} has chunks that do not cover it once. Save it again.")
    if len(chunks) < 2:
        return
    axis = max(range(len(shape)), key=lambda axis: len({chunk.offsets[axis] for chunk in chunks}))
    open_: list[Chunk] = []
    for chunk in sorted(chunks, key=lambda chunk: chunk.offsets[axis]):
        open_ = [other for other in open_ if other.offsets[axis] + other.shape[axis] > chunk.offsets[axis]]
        if any(_meet(chunk, other) for other in open_):
            raise FormatError(f"{where} has chunks that overlap, at {list(chunk.offsets)}. Save it again.")
        open_.append(chunk)


def _meet(one: Chunk, other: Chunk) -> bool:
    return all(
        begin < their + extent and their < begin + size
        for begin, size, their, extent in zip(one.offsets, one.shape, other.offsets, other.shape, strict=True)
    )


def _require_apart(chunks: Iterable[Chunk], where: str) -> None:
    """Check that no two chunks lie in the same bytes: what is declared is then no larger than the files."""
    placed = sorted(chunks, key=lambda chunk: (chunk.file.name, chunk.start))
    for one, other in pairwise(placed):
        if one.file == other.file and one.start + one.length > other.start:
            raise UnsafeFileError(f"{where}: two chunks share bytes of '{show(one.file.name)}'. Save it again.")
