"""A pickle followed without unpickling: nothing in it is executed.

The opcodes are walked with `pickletools` on a symbolic stack, where a call is only a note of what
would be called. That gives names, shapes and dtypes, and every global the pickle would import: one
outside torch's tensor rebuilding is refused, by name.
"""

import pickletools
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any, cast

from spectra.errors import FormatError, UnsafeFileError, UnsupportedError
from spectra.loaders.header import BITS
from spectra.text import listing

MAX_PICKLE = 16 * 2**20  # a hundred thousand tensors; walking it takes some twenty seconds
MAX_PROTOCOL = 3
_MOST_EXTENTS = 70  # more than torch has
STORAGES = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64", "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8", "TypedStorage": "uint8", "QUInt8Storage": "uint8", "QInt8Storage": "int8",
    "QInt32Storage": "int32",
}  # fmt: skip
_SAFE = {
    "collections OrderedDict", "torch Size", "torch device", "_codecs encode", "torch.nn.parameter Parameter",
    "torch._tensor _rebuild_from_type_v2", "torch Tensor", "torch.serialization _get_layout", "builtins set",
    "__builtin__ set", "collections Counter", "torch per_tensor_affine", "torch per_channel_affine",
}  # fmt: skip
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}


@dataclass(frozen=True, slots=True)
class Global:
    """A name the pickle would import: `module attribute`."""

    name: str


@dataclass(frozen=True, slots=True)
class Call:
    """A call the pickle would make, beyond rebuilding an ordinary tensor."""

    function: Any
    arguments: Any


@dataclass(frozen=True, slots=True)
class Storage:
    """The flat memory of one or more tensors, as the pickle claims it."""

    dtype: str
    key: str
    elements: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """A view on a storage, as the pickle claims it: nothing in it is checked yet."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: str

    @property
    def is_possible(self) -> bool:
        """Whether the numbers can be those of a tensor at all."""
        return (
            len(self.shape) == len(self.stride) <= 64
            and all(type(value) is int and 0 <= value < 2**62 for value in (self.offset, *self.shape, *self.stride))
            and type(self.storage.elements) is int
            and self.storage.elements >= 0
            and self.dtype in BITS
        )

    @property
    def reach(self) -> int:
        """Elements of the storage up to the last one that this view touches."""
        if 0 in self.shape:
            return 0
        steps = zip(self.shape, self.stride, strict=True)
        return self.offset + 1 + sum((extent - 1) * step for extent, step in steps)


def walk(pickled: IO[bytes], name: str, machine: "Machine | None" = None) -> Any:
    """Follow one pickle to its end and return what it would build, in symbols.

    machine : what follows it, with its own list of globals; by default the one for tensors. Raises
    UnsafeFileError for a foreign global or a pickle over 16 MB, FormatError for a damaged one,
    UnsupportedError for a protocol that the reader of this kind of file does not know.
    """
    machine = machine or Machine()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes in texts
            for opcode, argument, _ in pickletools.genops(cast("IO[bytes]", _Bounded(pickled, name))):
                machine.step(opcode.name, argument)
        root = machine.stack[-1]
    except UnsafeFileError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, RecursionError):
        refuse_globals(machine.foreign(), name)
        raise FormatError(f"{name} is damaged: its pickle cannot be followed. Download it again.") from None
    refuse_globals(machine.foreign(), name)
    if machine.protocol > machine.newest:
        raise UnsupportedError(
            f"{name} was saved with pickle protocol {machine.protocol}, which torch's safe loader does not read. "
            "Save it again without pickle_protocol, or as safetensors."
        )
    return root


def refuse_globals(foreign: Iterable[str], name: str) -> None:
    """Raise UnsafeFileError naming imports that weights do not need, when there are any."""
    shown = listing((found.replace(" ", ".") for found in sorted(foreign)), 3)
    if shown:
        raise UnsafeFileError(
            f"{name} would import {shown} when loaded: weights need none of that, so it is not opened. "
            "Ask its author for safetensors."
        )


def _is_safe(found: str) -> bool:
    module, _, attribute = found.partition(" ")
    if module == "torch._utils":
        return attribute.startswith("_rebuild_")
    if module in ("torch", "torch.cuda", "torch.storage"):
        return attribute in STORAGES or (module == "torch" and attribute in BITS) or found in _SAFE
    return found in _SAFE


class _Bounded:
    """A file of which at most `MAX_PICKLE` bytes are read from here, whatever lengths it claims."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file, self._name, self._left = file, name, MAX_PICKLE

    def _take(self, raw: bytes) -> bytes:
        self._left -= len(raw)
        if self._left < 0:
            raise UnsafeFileError(f"{self._name}: its pickle is over {MAX_PICKLE} bytes. Ask for safetensors.")
        return raw

    def read(self, length: int = -1) -> bytes:
        limit = self._left + 1
        return self._take(self._file.read(limit if length < 0 else min(length, limit)))

    def readline(self) -> bytes:
        return self._take(self._file.readline(self._left + 1))

    def tell(self) -> int:
        return self._file.tell()


class Machine:
    """Pickle's stack machine on symbols: calls are noted, never made."""

    newest = MAX_PROTOCOL

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.globals: set[str] = set()
        self.protocol = 0

    def is_safe(self, found: str) -> bool:
        """Return whether a global, `module attribute`, is one that this kind of file needs."""
        return _is_safe(found)

    def foreign(self) -> list[str]:
        return [found for found in self.globals if not self.is_safe(found)]

    def step(self, opcode: str, argument: Any) -> None:
        handler = getattr(self, f"_{opcode.lower()}", None)
        if handler is not None:
            handler(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode])
        elif opcode not in ("FRAME", "STOP"):
            if argument is None:
                raise ValueError(opcode)
            self.stack.append(argument)

    def _marked(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def _proto(self, number: int) -> None:
        self.protocol = number

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

    _empty_set = _empty_list

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._marked()))

    def _list(self, _: Any) -> None:
        self.stack.append(self._marked())

    def _dict(self, _: Any) -> None:
        items = self._marked()
        self.stack.append(_as_dict(items[::2], items[1::2]))

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
        _update(self.stack[-1], [key], [value])

    def _setitems(self, _: Any) -> None:
        items = self._marked()
        _update(self.stack[-1], items[::2], items[1::2])

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
        self.stack.append(Global(name))

    def _stack_global(self, _: Any) -> None:
        module, attribute = self.stack[-2:]
        del self.stack[-2:]
        if not (isinstance(module, str) and isinstance(attribute, str)):
            raise TypeError("a global is named by two texts")
        self._global(f"{module} {attribute}")

    def _inst(self, name: str) -> None:
        self.globals.add(name)
        self.stack.append(Call(Global(name), tuple(self._marked())))

    def _obj(self, _: Any) -> None:
        function, *arguments = self._marked()
        self.stack.append(Call(function, tuple(arguments)))

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


# Only plain keys are kept: a tuple that holds another twice, forty deep, would take years to hash.
def _as_dict(keys: list[Any], values: list[Any]) -> dict[Any, Any]:
    return {
        key: value for key, value in zip(keys, values, strict=True) if isinstance(key, str | int | float | bytes | None)
    }


def _extend(target: Any, values: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(values)


def _update(target: Any, keys: list[Any], values: list[Any]) -> None:
    if isinstance(target, dict):
        target.update(_as_dict(keys, values))


def few(values: Any) -> tuple[Any, ...]:
    """Return the extents of a tensor, cut where they are more than any tensor has: each call copies them."""
    return tuple(islice(values, _MOST_EXTENTS))


def _called(function: Any, arguments: Any) -> Any:
    name = function.name if isinstance(function, Global) else ""
    if name == "collections OrderedDict":
        pairs = list(arguments[0]) if arguments else []
        return _as_dict([key for key, _ in pairs], [value for _, value in pairs])
    if name in ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor"):
        storage, offset, shape, stride = arguments[:4]
        return Tensor(storage, offset, few(shape), few(stride), storage.dtype)
    if name == "torch._utils _rebuild_tensor_v3":
        storage, offset, shape, stride, _, _, dtype = arguments[:7]
        if not isinstance(storage, Storage):
            raise TypeError("a tensor needs a storage")
        return Tensor(storage, offset, few(shape), few(stride), dtype.name.removeprefix("torch "))
    if name in ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state"):
        return arguments[0]
    if name == "torch._tensor _rebuild_from_type_v2":
        return _called(arguments[0], arguments[2])
    return Call(function, arguments)


def _persistent(identifier: Any) -> Any:
    kind, storage, key, _, elements, *_ = identifier
    if kind != "storage" or not isinstance(key, str):
        raise ValueError("a persistent object that is no storage")
    return Storage(STORAGES[storage.name.rpartition(" ")[2]], key, elements)
