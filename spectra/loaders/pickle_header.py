"""The contents of a file written by `torch.save`, named and checked without loading it.

Two containers: a zip archive, and the run of five pickles that torch wrote before 1.6. Both are
followed by `pickle_walk`; what remains for torch's own loader is to map tensors already checked.
"""

import hashlib
import io
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from spectra.errors import FormatError, UnsafeFileError, UnsupportedError
from spectra.loaders.files import HEAD, open_regular, what_it_is_instead
from spectra.loaders.header import BITS, FileRecord, Header, TensorInfo
from spectra.loaders.pickle_walk import MAX_PICKLE, Call, Global, Tensor, walk
from spectra.text import listing, show

_LEGACY_NUMBER = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # after the two bytes of the protocol
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
_ZIP_FAULTS = (zipfile.BadZipFile, ValueError, OSError, EOFError, RuntimeError, struct.error)
_DESCRIPTORS = (0, 12, 16, 20, 24)
_FOLDER = 0x10  # of MS-DOS, in a member's external attributes


def sniff(head: bytes) -> bool:
    """Return whether the first bytes can be those of a torch file: a zip archive or an old pickle."""
    return head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))


def is_legacy(path: Path) -> bool:
    """Return whether this is the format torch wrote before 1.6, which cannot be memory-mapped."""
    with open_regular(path) as file:
        return _is_legacy(file.read(HEAD))


def _is_legacy(head: bytes) -> bool:
    return head[:1] == b"\x80" and head[2:].startswith(_LEGACY_NUMBER)


def read(path: Path) -> Header:
    """Read what a torch pickle declares, and refuse it when it would do more than rebuild tensors.

    Raises UnsafeFileError for foreign globals, compressed members and tensors larger than their
    storage; FormatError for damaged files; UnsupportedError for another kind of pickle or archive.
    """
    with open_regular(path) as file:
        pickled, tensors = examine(file, show(path.name), path)
        size = file.seek(0, 2)
    record = FileRecord(path.name, size, hashlib.sha256(pickled).hexdigest())
    return Header("torch pickle", (record,), tensors)


def examine(file: IO[bytes], name: str, path: Path) -> tuple[bytes, dict[str, TensorInfo]]:
    """Return the pickle of what `torch.save` wrote into a file from its first byte to its last, and its tensors.

    Raises what `read` raises.
    """
    head = file.read(HEAD)
    size = file.seek(0, 2)
    file.seek(0)
    if head.startswith(b"PK"):
        pickled, root, stored = _read_zip(file, size, name)
    elif _is_legacy(head):
        pickled, root, stored = _read_legacy(file, size, name)
    elif head.startswith(b"\x80"):
        walk(file, name)
        raise UnsupportedError(
            f"{name} is a plain Python pickle, not a file written by torch.save. Save its tensors as safetensors."
        )
    else:
        reason = what_it_is_instead(head) or "its first bytes are not torch's"
        raise FormatError(f"{name} is no torch file: {reason}.")
    return pickled, _collect(_unwrapped(root), stored, name, path)


def _read_zip(file: IO[bytes], size: int, name: str) -> tuple[bytes, Any, dict[str, int]]:
    try:
        archive = zipfile.ZipFile(file)
        members = archive.infolist()
    except _ZIP_FAULTS:
        raise FormatError(
            f"{name} is truncated or damaged: its central directory cannot be read. Download it again."
        ) from None
    if any(member.filename.endswith("/constants.pkl") for member in members):
        raise UnsupportedError(f"{name} is a TorchScript program, not a state dict. Save its state_dict().")
    _refuse_members(members, size, name)
    pickles = [member for member in members if member.filename.split("/", 1)[-1] == "data.pkl"]
    if len(pickles) != 1:
        raise UnsupportedError(f"{name} is a zip archive without torch's data.pkl: it holds no weights.")
    if pickles[0].file_size > MAX_PICKLE:
        raise UnsafeFileError(f"{name}: its pickle is over {MAX_PICKLE} bytes. Ask for safetensors.")
    try:
        pickled = archive.read(pickles[0])
        _require_tiled(file, members, archive.start_dir, name)
    except _ZIP_FAULTS:
        raise FormatError(f"{name} is damaged: its data.pkl cannot be read. Download it again.") from None
    folder = pickles[0].filename.removesuffix("data.pkl") + "data/"
    stored = {
        member.filename.removeprefix(folder): member.file_size
        for member in members
        if member.filename.startswith(folder)
    }
    return pickled, walk(io.BytesIO(pickled), name), stored


def _refuse_members(members: list[zipfile.ZipInfo], size: int, name: str) -> None:
    packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
    if packed:
        raise UnsafeFileError(
            f"{name} holds compressed members ({listing(packed, 3)}), which torch.save never writes. "
            "Ask its author for safetensors."
        )
    # torch takes either for an empty folder and hands out memory as it finds it.
    if any(member.external_attr & _FOLDER or member.compress_size != member.file_size for member in members):
        raise UnsafeFileError(f"{name}: a member is marked as a folder or as empty and is neither. Download it again.")
    if sum(member.file_size for member in members) > size:
        raise UnsafeFileError(f"{name}: its members claim more bytes than the file has. Download it again.")
    # torch looks names up without regard to case: what is checked must be what it finds.
    if len({member.filename.lower() for member in members}) != len(members):
        raise UnsafeFileError(f"{name}: two of its members have one name. Ask its author for safetensors.")


def _require_tiled(file: IO[bytes], members: list[zipfile.ZipInfo], directory: int, name: str) -> None:
    """Check that members follow one another: torch takes their places on trust, and reads no checksum."""
    end = 0
    for member in sorted(members, key=lambda member: member.header_offset):
        file.seek(member.header_offset)
        local = file.read(30)
        if member.header_offset - end not in _DESCRIPTORS or len(local) < 30 or local[:4] != b"PK\x03\x04":
            raise FormatError(
                f"{name} is damaged: '{show(member.filename)}' is not where it should be. Download it again."
            )
        names, extra = struct.unpack("<HH", local[26:30])
        end = member.header_offset + 30 + names + extra + member.file_size
    if directory - end not in _DESCRIPTORS:
        raise FormatError(f"{name} is damaged: its last member does not end at its directory. Download it again.")


def _read_legacy(file: IO[bytes], size: int, name: str) -> tuple[bytes, Any, dict[str, int]]:
    # magic number, protocol, system, the object, the storage keys; then each storage: length, data
    _, _, _, root, _ = [walk(file, name) for _ in range(5)]
    position = file.tell()
    file.seek(0)
    pickled = file.read(position)
    storages = {tensor.storage.key: tensor.storage for _, tensor in _tensors(_unwrapped(root)) if tensor.is_possible}
    stored = {key: storage.elements * BITS[storage.dtype] // 8 for key, storage in storages.items()}
    needed = position + sum(stored.values()) + 8 * len(stored)
    if needed > size:
        raise FormatError(f"{name} is truncated: {needed} bytes are promised, {size} are there. Download it again.")
    return pickled, root, stored


def unwrap_key(keys: list[Any]) -> str | None:
    """Return the key under which a training checkpoint keeps its weights, None when it is plain."""
    return next((wrapper for wrapper in WRAPPERS if wrapper in keys), None)


def _unwrapped(root: Any) -> Any:
    if isinstance(root, dict) and not any(isinstance(value, Tensor) for value in root.values()):
        wrapper = unwrap_key(list(root))
        if wrapper is not None and isinstance(root[wrapper], dict):
            return root[wrapper]
    return root


def _named(root: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(root, Tensor):
        yield "", root
    items = root.items() if isinstance(root, dict) else enumerate(root) if isinstance(root, list) else ()
    for key, value in items:
        yield show(key, None) if isinstance(key, int) else str(key), value


def _tensors(root: Any) -> Iterator[tuple[str, Tensor]]:
    return ((key, value) for key, value in _named(root) if isinstance(value, Tensor))


def _collect(root: Any, stored: dict[str, int], name: str, path: Path) -> dict[str, TensorInfo]:
    found: dict[str, TensorInfo] = {}
    first: dict[tuple[Any, ...], str] = {}
    _refuse_other_tensors(root, name)
    for key, tensor in _tensors(root):
        _check(tensor, stored, f"{name}: tensor '{show(key)}'")
        identity = (tensor.storage.key, tensor.offset, tensor.shape, tensor.stride)
        alias = first.setdefault(identity, key)
        found[key] = TensorInfo(tensor.dtype, tensor.shape, path, None if alias == key else alias)
    if not found:
        keys = listing((key for key, _ in _named(root)), 5)
        raise FormatError(f"{name} holds no named tensors ({keys or 'it is empty'}). Save the state dict by itself.")
    return found


def _check(tensor: Tensor, stored: dict[str, int], where: str) -> None:
    if not tensor.is_possible:
        raise FormatError(f"{where} has an impossible shape, stride, offset or dtype. Download it again.")
    held = stored.get(tensor.storage.key)
    if held is None:
        raise FormatError(f"{where}: its data is missing from the file. Download it again.")
    info = TensorInfo(tensor.dtype, tensor.shape)
    claimed = max(info.bytes, tensor.reach * BITS[tensor.dtype] // 8)
    if claimed > held:
        raise UnsafeFileError(
            f"{where} of shape {show(list(tensor.shape), 60)} claims {show(claimed, 40)} bytes of a storage of {held}. "
            "Ask its author for safetensors."
        )


def _refuse_other_tensors(root: Any, name: str) -> None:
    """Refuse sparse, quantised and other tensors that are not plain memory, rather than leave them out."""
    for key, value in _named(root):
        function = value.function if isinstance(value, Call) else None
        if isinstance(function, Global) and function.name.startswith("torch._utils _rebuild_"):
            kind = function.name.partition("_rebuild_")[2]
            raise UnsupportedError(f"{name}: '{show(key)}' is stored as a {show(kind)}. Save it as a plain tensor.")
