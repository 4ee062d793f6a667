"""Tensors by name, one at a time, from a checkpoint on disk or a model in memory."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from spectra.errors import FormatError, InputError, UnsafeFileError, UnsupportedError
from spectra.loaders import pickle_header, strict_json
from spectra.loaders.files import exists
from spectra.loaders.formats import WEIGHT_NAMES, read_weights
from spectra.loaders.header import BITS, Header, TensorInfo
from spectra.text import show

Model = str | Path | torch.nn.Module | Mapping[str, Any]
_PICKLE_WINDOW = 16 * 2**20


class TensorSource(Protocol):
    """Named tensors behind one small contract. `tensor` returns the stored dtype, on the CPU."""

    label: str
    config: Mapping[str, Any]
    header: Header

    def tensor(self, key: str) -> torch.Tensor: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class FileSource:
    """A checkpoint on disk. Memory held between two reads is bounded, whatever the file's size."""

    label: str
    config: Mapping[str, Any]
    header: Header
    _window: dict[Path, Mapping[str, torch.Tensor]] = field(default_factory=dict)
    _touched: int = 0

    def tensor(self, key: str) -> torch.Tensor:
        info = self.header.tensors[key]
        assert info.file is not None
        found = _READERS[self.header.container.partition(",")[0]](self, key, info.file)
        if found is None or tuple(found.shape) != info.shape or str(found.dtype) != f"torch.{info.dtype}":
            read = "nothing" if found is None else f"{list(found.shape)} of {found.dtype}"
            raise FormatError(
                f"{show(info.file.name)}: tensor '{show(key)}' is declared {list(info.shape)} of {info.dtype} and "
                f"reads as {read}. Save or download it again."
            )
        return found

    def close(self) -> None:
        self._window.clear()

    def _from_safetensors(self, key: str, path: Path) -> torch.Tensor | None:
        # A handle per tensor: closing it unmaps the pages, so that resident memory stays that of one.
        try:
            with safe_open(path, framework="pt") as file:
                found: torch.Tensor = file.get_tensor(key)
            return found
        except (SafetensorError, OSError, AttributeError, RuntimeError, ValueError) as fault:
            raise FormatError(
                f"{show(path.name)}: tensor '{show(key)}' cannot be read: {show(fault)}. Download or save it again."
            ) from None

    def _from_pickle(self, key: str, path: Path) -> torch.Tensor | None:
        # A mapped file's pages stay resident until it is unmapped: map it anew every 16 MB.
        self._touched += self.header.tensors[key].bytes
        if path not in self._window or self._touched > _PICKLE_WINDOW:
            self._window = {path: _load_pickle(path)}
            self._touched = self.header.tensors[key].bytes
        found = self._window[path].get(key)
        return None if found is None else found.detach()


_READERS: dict[str, Callable[[FileSource, str, Path], torch.Tensor | None]] = {
    "safetensors": FileSource._from_safetensors,
    "torch pickle": FileSource._from_pickle,
}


def _load_pickle(path: Path) -> Mapping[str, torch.Tensor]:
    mapped = not pickle_header.is_legacy(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as fault:  # noqa: BLE001
        # torch raises a dozen types here; whatever it refuses is refused, and nothing else is tried.
        raise UnsafeFileError(
            f"{show(path.name)} is refused by torch's safe loader ({_reason(fault, path)}). "
            "Ask its author for safetensors."
        ) from None
    if isinstance(found, dict):
        wrapper = pickle_header.unwrap_key(list(found))
        tensors = any(isinstance(value, torch.Tensor) for value in found.values())
        found = found[wrapper] if wrapper and not tensors else found
        return {str(key): value for key, value in found.items() if isinstance(value, torch.Tensor)}
    if isinstance(found, torch.Tensor):
        return {"": found}
    return {str(index): value for index, value in enumerate(found)}


def _reason(fault: Exception, path: Path) -> str:
    """Return torch's own reason, which stands below its advice to load the file unsafely."""
    text = str(fault).replace(str(path), path.name)
    return show(text.partition("WeightsUnpickler error:")[2].strip().partition("\n")[0] or text.partition("\n")[0])


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
    path = Path(model)
    header = read_weights(path, names)
    folder = path if path.is_dir() else path.parent
    return FileSource(_label(path), read_config(folder), header)


def _label(path: Path) -> str:
    """Name a checkpoint as people do: a snapshot of the Hub's cache by its model, else by its own name."""
    whole = path.absolute().parts
    hub = next((part for part in whole if part.startswith("models--")), None)
    if hub is not None and "snapshots" in whole:
        return hub.removeprefix("models--").replace("--", "/")
    return path.name if path.name not in ("", "..") else path.resolve().name


def read_config(folder: Path) -> Mapping[str, Any]:
    """Read the `config.json` of a checkpoint folder, an empty mapping where there is none."""
    path = folder / "config.json"
    return strict_json.read(path) if exists(path) else {}


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
