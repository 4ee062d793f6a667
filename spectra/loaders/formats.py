"""The table of containers, and how weights are found in a folder. Torch-free.

A new container is one file with `sniff` and `read`, one row here and one reader in `source.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from spectra.errors import FormatError, InputError, UnsupportedError
from spectra.loaders import pickle_header, safetensors_header, strict_json
from spectra.loaders.files import (
    require_exists,
    require_plain_name,
    require_regular,
    what_it_is_instead,
)
from spectra.loaders.header import Header, TensorInfo
from spectra.text import listing, show


@dataclass(frozen=True, slots=True)
class Container:
    """One kind of file: its name, how its first bytes look, how its header is read."""

    name: str
    sniff: Callable[[bytes], bool]
    read: Callable[[Path], Header]


CONTAINERS = (
    Container("torch pickle", pickle_header.sniff, pickle_header.read),
    Container("safetensors", safetensors_header.sniff, safetensors_header.read),
)

# In the order of preference: safetensors beside a pickle always wins, a single file beats shards.
WEIGHT_NAMES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
ADAPTER_NAMES = ("adapter_model.safetensors", "adapter_model.bin")
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")


def read_file(path: Path) -> Header:
    """Read the header of one weights file, whatever its name says it is."""
    require_regular(path)
    with path.open("rb") as file:
        head = file.read(64)
    for container in CONTAINERS:
        if container.sniff(head):
            return container.read(path)
    if path.suffix == ".safetensors":
        return safetensors_header.read(path)
    reason = what_it_is_instead(head) or "its first bytes belong to no format that is read here"
    if path.suffix in WEIGHT_SUFFIXES:
        raise FormatError(f"{show(path.name)} holds no weights: {reason}.")
    raise UnsupportedError(f"{show(path.name)} is not read as weights: {reason}.")


def read_weights(path: Path, names: tuple[str, ...] = WEIGHT_NAMES) -> Header:
    """Read the header of a checkpoint: a weights file, an index, or a folder that holds either.

    Raises InputError when nothing is found, FormatError when shards are missing or disagree.
    """
    require_exists(path)
    if not path.is_dir():
        return _read_index(path) if path.name.endswith(".index.json") else read_file(path)
    present = [name for name in names if (path / name).exists()]
    if not present:
        return read_file(_only_weights_file(path))
    chosen = path / present[0]
    header = _read_index(chosen) if chosen.name.endswith(".index.json") else read_file(chosen)
    if len(present) == 1:
        return header
    note = f"{listing(present)} are all in '{show(path.name)}': {present[0]} is read, the others are not"
    return replace(header, notes=(*header.notes, note))


def _only_weights_file(folder: Path) -> Path:
    found = sorted(entry for entry in folder.iterdir() if entry.suffix in WEIGHT_SUFFIXES)
    if len(found) == 1:
        return found[0]
    if not found:
        inside = listing(sorted(entry.name for entry in folder.iterdir()), 5) or "nothing"
        raise InputError(
            f"the folder '{show(folder.name)}' holds no weights ({inside}). Expected one of {listing(WEIGHT_NAMES)}."
        )
    if any("-of-" in entry.name for entry in found):
        raise InputError(
            f"the folder '{show(folder.name)}' holds shards without their index "
            f"({listing((entry.name for entry in found), 3)}). Add the .index.json written with them."
        )
    raise InputError(
        f"the folder '{show(folder.name)}' holds several weights files "
        f"({listing(entry.name for entry in found)}). Name the one to read."
    )


def _read_index(path: Path) -> Header:
    where = show(path.name)
    weight_map = strict_json.read(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{where} has no weight_map.")
    suffix = ".bin" if path.name.endswith(".bin.index.json") else ".safetensors"
    placed = {key: require_plain_name(name, suffix, where) for key, name in weight_map.items()}
    missing = [name for name in dict.fromkeys(placed.values()) if not (path.parent / name).exists()]
    if missing:
        raise FormatError(f"{where}: {len(missing)} of its shards are missing: {listing(missing)}.")
    shards = {name: read_file(path.parent / name) for name in dict.fromkeys(placed.values())}
    return _merged(where, placed, shards)


def _merged(where: str, placed: dict[str, str], shards: dict[str, Header]) -> Header:
    absent = [f"{show(key)} ({show(name)})" for key, name in placed.items() if key not in shards[name].tensors]
    if absent:
        raise FormatError(f"{where}: {len(absent)} tensors are not in their shard: {listing(absent, 5)}.")
    tensors: dict[str, TensorInfo] = {key: shards[name].tensors[key] for key, name in placed.items()}
    stray = [key for header in shards.values() for key in header.tensors if key not in placed]
    notes = (f"{where} does not list {listing(stray, 5)}: not read",) if stray else ()
    files = tuple(header.files[0] for header in shards.values())
    container = next(iter(shards.values())).container
    return Header(f"{container}, {len(shards)} shards", files, tensors, notes=notes)
