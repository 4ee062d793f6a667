"""What is fuzzed: every reader that meets a stranger's bytes before torch does. Torch-free, as the readers are.

An input is one byte that picks the reader and the bytes it gets. The one thing asked of each: it returns, or
raises one of `spectra.errors` with a message that can be shown.
"""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

from spectra.errors import SpectraError
from spectra.loaders import dcp_metadata, formats, gguf_header, npz_header, strict_json
from spectra.loaders.adapters.config import read_config
from spectra.loaders.adapters.patterns import matches
from spectra.loaders.inspection.inspect import inspect

MODULES = ("model.layers.0.self_attn.q_proj", "h.11.attn.c_attn", "a" * 64, "")


def _put(folder: Path, name: str, content: bytes) -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def _safetensors(folder: Path, content: bytes) -> None:
    formats.read_file(_put(folder, "w.safetensors", content))


def _safetensors_header(folder: Path, content: bytes) -> None:
    """The JSON alone, its length right, over sixty bytes of data."""
    _safetensors(folder, len(content).to_bytes(8, "little") + content + bytes(60))


def _index(folder: Path, content: bytes) -> None:
    header = b'{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[],"data_offsets":[2,3]}}'
    _put(folder, "s.safetensors", len(header).to_bytes(8, "little") + header + bytes(3))
    formats.read_weights(_put(folder, "model.safetensors.index.json", content))


def _json(folder: Path, content: bytes) -> None:
    strict_json.read(_put(folder, "config.json", content))


def _adapter_config(folder: Path, content: bytes) -> None:
    """The configuration of an adapter, typed, and its patterns put to every module."""
    config = read_config(strict_json.parse(content, "adapter_config.json"))
    for module in MODULES:
        config.alpha_of(module)
        if config.r:
            config.scaling_of(module, 4)


def _pattern(folder: Path, content: bytes) -> None:
    pattern, _, module = content.decode("utf-8", "surrogateescape").partition("\0")
    for name in (module, *MODULES):
        matches(pattern, name, "adapter_config.json")


def _torch(folder: Path, content: bytes) -> None:
    formats.read_file(_put(folder, "w.bin", content))


def _torch_pickle(folder: Path, content: bytes) -> None:
    """The pickle alone, in an archive whose checksums are right."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        for number in range(3):
            archive.writestr(f"archive/data/{number}", bytes(64))
    _torch(folder, out.getvalue())


def _npz(folder: Path, content: bytes) -> None:
    npz_header.read(_put(folder, "w.npz", content))


def _npy(folder: Path, content: bytes) -> None:
    """One array's bytes, in an archive whose checksums are right."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("a.npy", content)
    _npz(folder, out.getvalue())


def _gguf(folder: Path, content: bytes) -> None:
    gguf_header.read(_put(folder, "w.gguf", content))


def _dcp(folder: Path, content: bytes) -> None:
    """The metadata of a distributed checkpoint, beside one file of eight kilobytes."""
    inside = folder / "dcp"
    inside.mkdir(exist_ok=True)
    _put(inside, "__0_0.distcp", bytes(8192))
    _put(inside, ".metadata", content)
    dcp_metadata.read(inside)


def _inspected(folder: Path, content: bytes) -> None:
    """A folder as `spectra inspect` sees it: tensors of an adapter named by the header given, beside a configuration."""
    config, _, header = content.partition(b"\0")
    inside = folder / "inspected"
    inside.mkdir(exist_ok=True)
    _put(inside, "adapter_config.json", config)
    _put(inside, "adapter_model.safetensors", len(header).to_bytes(8, "little") + header + bytes(60))
    inspect(inside)


READERS: dict[str, Callable[[Path, bytes], None]] = {
    "safetensors": _safetensors,
    "safetensors-header": _safetensors_header,
    "index": _index,
    "json": _json,
    "adapter-config": _adapter_config,
    "pattern": _pattern,
    "torch": _torch,
    "torch-pickle": _torch_pickle,
    "npz": _npz,
    "npy": _npy,
    "gguf": _gguf,
    "inspected": _inspected,
    "dcp": _dcp,
}


def read(folder: Path, content: bytes) -> SpectraError | None:
    """Give an input to its reader. Anything but one of our own errors, or one that cannot be shown, leaves this."""
    if not content:
        return None
    reader = list(READERS.values())[content[0] % len(READERS)]
    try:
        reader(folder, content[1:])
    except SpectraError as fault:
        message = str(fault)
        assert all(line.isprintable() for line in message.split("\n")), "a message steers no terminal"
        assert len(message) < 5000, "a message can be read"
        return fault
    return None
