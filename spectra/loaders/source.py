"""Tensors by name, one at a time, from a checkpoint on disk or a model in memory."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from spectra.errors import FormatError, InputError, UnsupportedError
from spectra.loaders import (
    dcp_metadata,
    dcp_tensors,
    gguf_header,
    gguf_names,
    gguf_tensors,
    npz,
    pickle_header,
    safe_load,
    strict_json,
)
from spectra.loaders.files import exists, named_path
from spectra.loaders.flat import FlatFile
from spectra.loaders.formats import WEIGHT_NAMES, read_weights
from spectra.loaders.header import BITS, Header, TensorInfo
from spectra.loaders.links import Reach, reach, within
from spectra.loaders.pipeline import components_of, join
from spectra.loaders.quantization.declared import completed
from spectra.text import show

Model = str | Path | torch.nn.Module | Mapping[str, Any]
_PICKLE_WINDOW = 16 * 2**20


class TensorSource(Protocol):
    """Named tensors behind one small contract. `tensor` returns what is stored, dequantised, on the CPU."""

    label: str
    config: Mapping[str, Any]
    header: Header

    def tensor(self, key: str) -> torch.Tensor: ...
    def close(self) -> None: ...


@runtime_checkable
class PartSource(Protocol):
    """A source that reads one slice along the first axis of a tensor without the rest of it."""

    def part(self, key: str, index: int) -> torch.Tensor: ...


def part_of(source: TensorSource, key: str, index: int | None) -> torch.Tensor:
    """Return a tensor, or the slice of it that is the expert of this number."""
    if index is None:
        return source.tensor(key)
    return source.part(key, index) if isinstance(source, PartSource) else source.tensor(key)[index]


@dataclass(slots=True)
class FileSource:
    """A checkpoint on disk. Memory held between two reads is bounded, whatever the file's size."""

    label: str
    config: Mapping[str, Any]
    header: Header
    _window: dict[Path, Mapping[str, torch.Tensor]] = field(default_factory=dict)
    _left: float = 0
    _shard: FlatFile | None = None
    _reach: Reach = field(default_factory=reach)

    def tensor(self, key: str) -> torch.Tensor:
        info = self.header.tensors[key]
        assert info.file is not None
        with within(self._reach):
            found = _READERS[self.header.container.partition(",")[0]](self, key, info.file)
        return _as_declared(found, key, info, info.shape)

    def part(self, key: str, index: int) -> torch.Tensor:
        info = self.header.tensors[key]
        assert info.file is not None
        with within(self._reach):
            if isinstance(info, gguf_header.BlockTensor):
                return gguf_tensors.read(info, key, info.file, index)
            if not self.header.container.startswith("safetensors"):
                return self.tensor(key)[index]  # a pickle is mapped: only the pages of the slice are touched
            return self._flat_file(info.file).tensor(info, key, index)

    def close(self) -> None:
        self._window.clear()
        self._shard = None

    def _from_safetensors(self, key: str, path: Path) -> torch.Tensor | None:
        return self._flat_file(path).tensor(self.header.tensors[key], key)

    def _flat_file(self, path: Path) -> FlatFile:
        if self._shard is None or self._shard.path != path:
            self._shard = FlatFile(path)
        return self._shard

    def _from_pickle(self, key: str, path: Path) -> torch.Tensor | None:
        # A mapped file's pages stay resident until it is unmapped: map it anew every 16 MB. What torch wrote before
        # 1.6 cannot be mapped: it is in memory as a whole, and to read it again would free nothing.
        size = self.header.tensors[key].bytes
        if path not in self._window or self._left < size:
            mapped = not pickle_header.is_legacy(path)
            self._window = {path: _load_pickle(path, mapped)}
            self._left = _PICKLE_WINDOW if mapped else math.inf
        self._left -= size
        found = self._window[path].get(key)
        return None if found is None else found.detach()

    def _from_gguf(self, key: str, path: Path) -> torch.Tensor | None:
        info = self.header.tensors[key]
        assert isinstance(info, gguf_header.BlockTensor)
        return gguf_tensors.read(info, key, path)

    def _from_dcp(self, key: str, _: Path) -> torch.Tensor | None:
        info = self.header.tensors[key]
        assert isinstance(info, dcp_metadata.ChunkedTensor)
        return dcp_tensors.read(info, key)

    def _from_npz(self, key: str, path: Path) -> torch.Tensor | None:
        return npz.read(path, key)


def _as_declared(found: torch.Tensor | None, key: str, info: TensorInfo, shape: tuple[int, ...]) -> torch.Tensor:
    """Return what was read if it is what the header declares."""
    if found is None or tuple(found.shape) != shape or str(found.dtype) != f"torch.{info.read_as}":
        read = "nothing" if found is None else f"{list(found.shape)} of {found.dtype}"
        raise FormatError(
            f"{show(info.file.name if info.file else '')}: tensor '{show(key)}' is declared {list(shape)} of "
            f"{info.dtype} and reads as {read}. Save or download it again."
        )
    return found


_READERS: dict[str, Callable[[FileSource, str, Path], torch.Tensor | None]] = {
    "safetensors": FileSource._from_safetensors,
    "torch pickle": FileSource._from_pickle,
    "NumPy archive": FileSource._from_npz,
    "GGUF": FileSource._from_gguf,
    "DCP": FileSource._from_dcp,
}


def _load_pickle(path: Path, mapped: bool) -> Mapping[str, torch.Tensor]:
    found = safe_load.load(path, path, mapped=mapped)
    if isinstance(found, dict):
        wrapper = pickle_header.unwrap_key(list(found))
        tensors = any(isinstance(value, torch.Tensor) for value in found.values())
        found = found[wrapper] if wrapper and not tensors else found
        return {str(key): value for key, value in found.items() if isinstance(value, torch.Tensor)}
    if isinstance(found, torch.Tensor):
        return {"": found}
    return {str(index): value for index, value in enumerate(found)}


@dataclass(slots=True)
class MemorySource:
    """A state dict in memory, its own or a live module's."""

    label: str
    config: Mapping[str, Any]
    header: Header
    _tensors: Mapping[str, torch.Tensor]

    def tensor(self, key: str) -> torch.Tensor:
        return self._tensors[key].detach().to("cpu")

    def close(self) -> None:
        return None


def open_source(model: Model, names: tuple[str, ...] = WEIGHT_NAMES) -> TensorSource:
    """Open a path, a module or a state dict as named tensors."""
    if isinstance(model, torch.nn.Module):
        return _from_module(model)
    if isinstance(model, Mapping):
        return _from_state_dict(model, "state dict", {})
    if not isinstance(model, str | Path):
        raise InputError(f"an object of type {type(model).__name__} is neither a path, an nn.Module nor a state dict.")
    path = named_path(model)
    components = components_of(path) if names == WEIGHT_NAMES else ()
    if components:
        return join(_label(path), path, {name: open_source(path / name) for name in components})
    header = read_weights(path, names)
    gguf_tensors.require_readable(header)
    config = gguf_names.config_of(header) or read_config(path if path.is_dir() else path.parent)
    return FileSource(_label(path), config, header)


def _label(path: Path) -> str:
    """Name a checkpoint as people do: a snapshot of the Hub's cache by its model, else by its own name."""
    whole = path.absolute().parts
    hub = next((part for part in whole if part.startswith("models--")), None)
    if hub is not None and "snapshots" in whole:
        return hub.removeprefix("models--").replace("--", "/")
    return path.name if path.name not in ("", "..") else path.resolve().name


def read_config(folder: Path) -> Mapping[str, Any]:
    """Read the `config.json` of a checkpoint folder, an empty mapping where there is none.

    What AutoGPTQ and AutoAWQ once wrote beside it of their quantisation is taken into it.
    """
    path = folder / "config.json"
    return completed(strict_json.read(path) if exists(path) else {}, folder)


def _from_module(module: torch.nn.Module) -> MemorySource:
    config = getattr(module, "config", None)
    known = dict(config.to_dict()) if config is not None and hasattr(config, "to_dict") else {}
    transposed = [name for name, part in module.named_modules() if type(part).__name__ == "Conv1D"]
    known["transposed_modules"] = transposed
    return _from_state_dict(module.state_dict(), type(module).__name__, known)


def _from_state_dict(tensors: Mapping[str, Any], label: str, config: Mapping[str, Any]) -> MemorySource:
    infos: dict[str, TensorInfo] = {}
    first: dict[tuple[Any, ...], str] = {}
    for key, tensor in tensors.items():
        _require_plain(key, tensor)
        identity = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.numel() or key)
        alias = first.setdefault(identity, key)
        dtype = str(tensor.dtype).removeprefix("torch.")
        infos[key] = TensorInfo(dtype, tuple(tensor.shape), alias=None if alias == key else alias)
    return MemorySource(label, config, Header("memory", (), infos), tensors)


def _require_plain(key: object, tensor: object) -> None:
    if not isinstance(key, str):
        raise InputError(f"the state dict has a key that is no text: {show(repr(key), 40)}.")
    if not isinstance(tensor, torch.Tensor):
        raise InputError(f"'{show(key)}' in the state dict is of type {type(tensor).__name__}, not a tensor.")
    if tensor.is_meta:
        raise InputError(f"'{show(key)}' is on the meta device: it has a shape and no weights. Load the model.")
    if tensor.layout != torch.strided or str(tensor.dtype).removeprefix("torch.") not in BITS:
        raise UnsupportedError(
            f"'{show(key)}' is {tensor.layout} of {tensor.dtype}, not a plain tensor. Convert it with to_dense() or "
            "dequantize() first."
        )
