"""The contents of a torch pickle, named without unpickling: nothing in the file is executed.

The opcodes are walked with `pickletools` on a symbolic stack, where a call is only a note of what
would be called. That gives names, shapes and dtypes, and every global the file would import: one
outside torch's tensor rebuilding is refused, by name.
"""

import hashlib
import pickletools
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from spectra.errors import FormatError, UnsafeFileError, UnsupportedError
from spectra.loaders.files import require_regular, what_it_is_instead
from spectra.loaders.header import BITS, FileRecord, Header, TensorInfo
from spectra.text import listing, show

MAX_PICKLE = 64 * 2**20
LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
}  # fmt: skip
WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
_SAFE = {
    "collections OrderedDict", "torch Size", "torch device", "_codecs encode", "torch.nn.parameter Parameter",
    "torch._tensor _rebuild_from_type_v2", "torch Tensor", "torch.storage UntypedStorage",
    "torch.serialization _get_layout", "torch.storage TypedStorage", "builtins set", "collections Counter",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Global:
    name: str


@dataclass(frozen=True, slots=True)
class _Call:
    function: Any
    arguments: Any


@dataclass(frozen=True, slots=True)
class _Storage:
    dtype: str
    key: str
    elements: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str

    @property
    def reach(self) -> int:
        """Elements of the storage up to the last one that this view touches."""
        if 0 in self.shape:
            return 0
        steps = zip(self.shape, self.stride, strict=True)
        return self.offset + 1 + sum((extent - 1) * step for extent, step in steps)


_MARK = object()


def sniff(head: bytes) -> bool:
    """Return whether the first bytes can be those of a torch file: a zip archive or an old pickle."""
    return head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))


def is_legacy(path: Path) -> bool:
    """Return whether this is the format torch wrote before 1.6, which cannot be memory-mapped."""
    with path.open("rb") as file:
        return file.read(len(LEGACY_MAGIC)) == LEGACY_MAGIC


def read(path: Path) -> Header:
    """Read what a torch pickle declares, and refuse it when it would do more than rebuild tensors.

    Raises UnsafeFileError for foreign globals, compressed members and tensors larger than their
    storage; FormatError for truncated files; UnsupportedError for a tar or another archive.
    """
    size = require_regular(path)
    name = show(path.name)
    with path.open("rb") as file:
        head = file.read(512)
        instead = what_it_is_instead(head)
        if instead:
            raise FormatError(f"{name} holds no weights: {instead}.")
        file.seek(0)
        if head.startswith(b"PK"):
            pickled, root, globals_, stored = _read_zip(file, size, name)
        elif head.startswith(LEGACY_MAGIC):
            pickled, root, globals_, stored = _read_legacy(file, name)
        elif head.startswith(b"\x80"):
            _, globals_ = _walk(_limited(file, name), name)
            _refuse_globals(globals_, name)
            raise UnsupportedError(f"{name} is a plain Python pickle, not a file written by torch.save.")
        else:
            kind = "a tar archive" if tarfile.is_tarfile(path) else "no torch file"
            raise UnsupportedError(f"{name} is {kind}: load it where it was made and save it as safetensors.")
    _refuse_globals(globals_, name)
    tensors = _collect(_unwrapped(root), stored, name, path)
    record = FileRecord(path.name, size, hashlib.sha256(pickled).hexdigest())
    return Header("torch pickle", (record,), tensors)


def _limited(file: IO[bytes], name: str) -> bytes:
    raw = file.read(MAX_PICKLE + 1)
    if len(raw) > MAX_PICKLE:
        raise UnsafeFileError(f"{name}: its pickle is over {MAX_PICKLE} bytes.")
    return raw


def _read_zip(file: IO[bytes], size: int, name: str) -> tuple[bytes, Any, set[str], dict[str, int]]:
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, OSError):
        raise FormatError(f"{name} is truncated: its central directory is missing. Download it again.") from None
    with archive:
        members = archive.infolist()
        packed = [member.filename for member in members if member.compress_type != zipfile.ZIP_STORED]
        if packed:
            raise UnsafeFileError(
                f"{name} holds compressed members ({listing(packed, 3)}); torch.save never writes them."
            )
        if sum(member.file_size for member in members) > size:
            raise UnsafeFileError(f"{name}: its members claim more bytes than the file has.")
        pickles = [member for member in members if member.filename.split("/", 1)[-1] == "data.pkl"]
        if len(pickles) != 1:
            raise UnsupportedError(f"{name} is a zip archive without torch's data.pkl: it holds no weights.")
        if pickles[0].file_size > MAX_PICKLE:
            raise UnsafeFileError(f"{name}: its pickle is over {MAX_PICKLE} bytes.")
        folder = pickles[0].filename.removesuffix("data.pkl") + "data/"
        stored = {
            member.filename.removeprefix(folder): member.file_size
            for member in members
            if member.filename.startswith(folder)
        }
        try:
            pickled = archive.read(pickles[0])
        except (zipfile.BadZipFile, EOFError, OSError):
            raise FormatError(f"{name} is damaged: its data.pkl cannot be read. Download it again.") from None
    root, globals_ = _walk(pickled, name)
    return pickled, root, globals_, stored


def _read_legacy(file: IO[bytes], name: str) -> tuple[bytes, Any, set[str], dict[str, int]]:
    raw = file.read()
    position, roots, globals_ = 0, [], set()
    for _ in range(5):  # magic number, protocol, system, the object, the storage keys
        end = _end_of_pickle(raw, position, name)
        root, found = _walk(raw[position:end], name)
        roots.append(root)
        globals_ |= found
        position = end
    pickled = raw[:position]
    elements = {tensor.storage.key: tensor.storage for _, tensor in _tensors(_unwrapped(roots[3]))}
    stored = {key: storage.elements * BITS[storage.dtype] // 8 for key, storage in elements.items()}
    needed = position + sum(stored.values()) + 8 * len(stored)
    if needed > len(raw):
        raise FormatError(f"{name} is truncated: {needed} bytes promised, {len(raw)} there. Download it again.")
    return pickled, roots[3], globals_, stored


def _end_of_pickle(raw: bytes, start: int, name: str) -> int:
    window = memoryview(raw)[start : start + MAX_PICKLE]
    try:
        last = 0
        for _, _, position in pickletools.genops(bytes(window)):
            last = position or 0
        return start + last + 1
    except ValueError:
        raise FormatError(f"{name} is damaged: one of its pickles does not end.") from None


def _refuse_globals(globals_: set[str], name: str) -> None:
    foreign = sorted(found for found in globals_ if not _is_safe(found))
    if foreign:
        shown = listing((found.replace(" ", ".") for found in foreign), 3)
        raise UnsafeFileError(
            f"{name} would import {shown} when loaded: weights need none of that, so it is not opened. "
            "Ask its author for safetensors."
        )


def _is_safe(found: str) -> bool:
    module, _, attribute = found.partition(" ")
    if module == "torch._utils":
        return attribute.startswith("_rebuild_")
    if module in ("torch", "torch.cuda", "torch.storage"):
        return attribute.endswith("Storage") or (module == "torch" and attribute in BITS) or found in _SAFE
    return found in _SAFE


def _walk(pickled: bytes, name: str) -> tuple[Any, set[str]]:
    machine = _Machine()
    try:
        for opcode, argument, _ in pickletools.genops(pickled):
            machine.step(opcode.name, argument)
        return machine.stack[-1], machine.globals
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, UnicodeError):
        if machine.globals:
            _refuse_globals(machine.globals, name)
        raise FormatError(f"{name} is damaged: its pickle cannot be followed. Download it again.") from None


class _Machine:
    """Pickle's stack machine on symbols: calls are noted, never made."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.globals: set[str] = set()

    def step(self, opcode: str, argument: Any) -> None:
        handler = getattr(self, f"_{opcode.lower()}", None)
        if handler is not None:
            handler(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode])
        elif opcode not in ("PROTO", "FRAME", "STOP"):
            if argument is None:
                raise ValueError(opcode)
            self.stack.append(argument)

    def _marked(self) -> list[Any]:
        start = len(self.stack) - 1 - self.stack[::-1].index(_MARK)
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items

    def _mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def _pop(self, _: Any) -> None:
        self.stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._marked()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _empty_dict(self, _: Any) -> None:
        self.stack.append({})

    def _empty_list(self, _: Any) -> None:
        self.stack.append([])

    def _empty_set(self, _: Any) -> None:
        self.stack.append([])

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._marked()))

    def _list(self, _: Any) -> None:
        self.stack.append(self._marked())

    def _dict(self, _: Any) -> None:
        items = self._marked()
        self.stack.append(_as_dict(items))

    def _tuple1(self, _: Any) -> None:
        self.stack[-1:] = [tuple(self.stack[-1:])]

    def _tuple2(self, _: Any) -> None:
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def _tuple3(self, _: Any) -> None:
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def _append(self, _: Any) -> None:
        value = self.stack.pop()
        _extend(self.stack[-1], [value])

    def _appends(self, _: Any) -> None:
        values = self._marked()
        _extend(self.stack[-1], values)

    _additems = _appends

    def _setitem(self, _: Any) -> None:
        key, value = self.stack[-2:]
        del self.stack[-2:]
        _update(self.stack[-1], [key, value])

    def _setitems(self, _: Any) -> None:
        items = self._marked()
        _update(self.stack[-1], items)

    def _put(self, index: Any) -> None:
        self.memo[int(index)] = self.stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _get(self, index: Any) -> None:
        self.stack.append(self.memo[int(index)])

    _binget = _long_binget = _get

    def _global(self, name: str) -> None:
        self.globals.add(name)
        self.stack.append(_Global(name))

    def _stack_global(self, _: Any) -> None:
        module, attribute = self.stack[-2:]
        del self.stack[-2:]
        self._global(f"{module} {attribute}")

    def _inst(self, name: str) -> None:
        self.globals.add(name)
        self.stack.append(_Call(_Global(name), tuple(self._marked())))

    def _obj(self, _: Any) -> None:
        function, *arguments = self._marked()
        self.stack.append(_Call(function, tuple(arguments)))

    def _reduce(self, _: Any) -> None:
        function, arguments = self.stack[-2:]
        del self.stack[-2:]
        self.stack.append(_called(function, arguments))

    _newobj = _reduce

    def _newobj_ex(self, _: Any) -> None:
        self.stack.pop()
        self._reduce(None)

    def _build(self, _: Any) -> None:
        self.stack.pop()

    def _binpersid(self, _: Any) -> None:
        self.stack[-1] = _persistent(self.stack[-1])

    def _ext1(self, code: Any) -> None:
        self._global(f"copyreg extension-{code}")

    _ext2 = _ext4 = _ext1


_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


def _as_dict(items: list[Any]) -> dict[Any, Any]:
    return {key: value for key, value in zip(items[::2], items[1::2], strict=True) if _hashable(key)}


def _hashable(key: Any) -> bool:
    return isinstance(key, str | int | float | bytes | None)


def _extend(target: Any, values: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(values)


def _update(target: Any, items: list[Any]) -> None:
    if isinstance(target, dict):
        target.update(_as_dict(items))


def _called(function: Any, arguments: Any) -> Any:
    name = function.name if isinstance(function, _Global) else ""
    if name == "collections OrderedDict":
        return dict(arguments[0]) if arguments else {}
    if name in ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor"):
        storage, offset, shape, stride = arguments[:4]
        return _Tensor(storage, offset, tuple(shape), tuple(stride), storage.dtype)
    if name == "torch._utils _rebuild_tensor_v3":
        storage, offset, shape, stride, _, _, dtype = arguments[:7]
        return _Tensor(storage, offset, tuple(shape), tuple(stride), dtype.name.removeprefix("torch "))
    if name in ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state"):
        return arguments[0]
    if name == "torch._tensor _rebuild_from_type_v2":
        return _called(arguments[0], arguments[2])
    return _Call(function, arguments)


def _persistent(identifier: Any) -> Any:
    if not (isinstance(identifier, tuple) and identifier[0] == "storage"):
        return _Call("persistent", identifier)
    kind = identifier[1].name.rpartition(" ")[2]
    dtype = STORAGES.get(kind, "uint8")
    return _Storage(dtype, str(identifier[2]), int(identifier[4]))


def unwrap_key(keys: list[Any]) -> str | None:
    """Return the key under which a training checkpoint keeps its weights, None when it is plain."""
    return next((wrapper for wrapper in WRAPPERS if wrapper in keys), None)


def _unwrapped(root: Any) -> Any:
    if isinstance(root, dict) and not any(isinstance(value, _Tensor) for value in root.values()):
        wrapper = unwrap_key(list(root))
        if wrapper is not None and isinstance(root[wrapper], dict):
            return root[wrapper]
    return root


def _tensors(root: Any) -> Iterator[tuple[str, _Tensor]]:
    if isinstance(root, _Tensor):
        yield "", root
    items = root.items() if isinstance(root, dict) else enumerate(root) if isinstance(root, list) else ()
    for key, value in items:
        if isinstance(value, _Tensor):
            yield str(key), value


def _collect(root: Any, stored: dict[str, int], name: str, path: Path) -> dict[str, TensorInfo]:
    found: dict[str, TensorInfo] = {}
    first: dict[tuple[Any, ...], str] = {}
    for key, tensor in _tensors(root):
        where = f"{name}: tensor '{show(key)}'"
        if not all(isinstance(extent, int) and extent >= 0 for extent in tensor.shape + tensor.stride):
            raise FormatError(f"{where} has the impossible shape {show(tensor.shape)}.")
        info = TensorInfo(tensor.dtype, tensor.shape, path)
        held = stored.get(tensor.storage.key)
        if held is None:
            raise FormatError(f"{where}: its data is missing from the file. Download it again.")
        itemsize = BITS[tensor.dtype] // 8
        if info.bytes > held or tensor.reach * itemsize > held:
            raise UnsafeFileError(
                f"{where} claims {info.bytes} bytes of shape {list(tensor.shape)} on a storage of {held}."
            )
        identity = (tensor.storage.key, tensor.offset, tensor.shape, tensor.stride)
        alias = first.setdefault(identity, key)
        found[key] = info if alias == key else TensorInfo(info.dtype, info.shape, path, alias)
    if not found:
        raise FormatError(f"{name} holds no named tensors.")
    return found
