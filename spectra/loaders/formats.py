"""The table of containers, and how weights are found in a folder. Torch-free.

A new container is one file with `sniff` and `read`, one row here and one reader in `source.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from spectra.errors import FormatError, InputError, UnsafeFileError, UnsupportedError
from spectra.loaders import (
    dcp_metadata,
    gguf_header,
    gguf_shards,
    npz_header,
    pickle_header,
    safetensors_header,
    strict_json,
)
from spectra.loaders.below import folders_below
from spectra.loaders.files import (
    HEAD,
    exists,
    names_in,
    open_regular,
    require_exists,
    require_plain_name,
    what_it_is_instead,
)
from spectra.loaders.header import Header, TensorInfo
from spectra.text import count, listing, show


@dataclass(frozen=True, slots=True)
class Container:
    """One kind of file: its name, how its first bytes look, how its header is read."""

    name: str
    sniff: Callable[[bytes], bool]
    read: Callable[[Path], Header]


# In this order: the length that opens a safetensors file may look like the start of a pickle, and a pickle of torch
# is a zip archive too.
CONTAINERS = (
    Container("safetensors", safetensors_header.sniff, safetensors_header.read),
    Container("NumPy archive", npz_header.begins, npz_header.read_weights),
    Container("torch pickle", pickle_header.sniff, pickle_header.read),
    Container("GGUF", gguf_header.sniff, gguf_shards.read),
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
INDEX_SUFFIX = ".index.json"
ADAPTER_NAMES = (
    "adapter_model.safetensors",
    "adapter_model.bin",
    "adapters.safetensors",
    "adapters.npz",
    "pytorch_lora_weights.safetensors",
    "pytorch_lora_weights.bin",
    "pytorch_adapter.bin",
    "adapter.safetensors",
    "adapter_model.pt",
    "adapter_0.pt",
    "lorma.safetensors",
)
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".npz")


def read_file(path: Path) -> Header:
    """Read the header of one weights file, whatever its name says it is."""
    if path.suffix == dcp_metadata.SUFFIX:
        raise InputError(f"{show(path.name)} is a part of a distributed checkpoint. Give the folder it lies in.")
    with open_regular(path) as file:
        head = file.read(HEAD)
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
    present = [name for name in names if exists(path / name)] if path.is_dir() else []
    distributed = None if present else dcp_metadata.folder_of(path)
    if distributed is not None:
        return dcp_metadata.read(distributed)
    if not path.is_dir():
        return _read_index(path) if path.name.endswith(INDEX_SUFFIX) else read_file(path)
    if not present:
        return _read_unnamed(path)
    chosen = path / present[0]
    header = _read_index(chosen) if chosen.name.endswith(INDEX_SUFFIX) else read_file(chosen)
    return _beside(header, path, present)


def _beside(header: Header, folder: Path, present: list[str]) -> Header:
    """Note which weights of a folder were not read, because others came first."""
    if len(present) == 1:
        return header
    note = f"{listing(present)} are all in '{show(folder.name)}': {show(present[0])} is read, the others are not"
    return replace(header, notes=(*header.notes, note))


def _read_unnamed(folder: Path) -> Header:
    """Read the only weights file of a folder, or the only safetensors file beside pickles."""
    inside = names_in(folder)
    found = [name for name in inside if Path(name).suffix in WEIGHT_SUFFIXES]
    safe = [name for name in found if name.endswith(".safetensors")]
    if len(safe) == 1 or len(found) == 1:
        chosen = (safe or found)[0]
        return _beside(read_file(folder / chosen), folder, [chosen, *(name for name in found if name != chosen)])
    first = gguf_shards.first_of(found)
    if first is not None:
        return gguf_shards.read(folder / first)
    where = f"the folder '{show(folder.name)}' holds"
    if not inside:
        raise InputError(f"the folder '{show(folder.name)}' is empty.")
    if not found and any(name.endswith(dcp_metadata.SUFFIX) for name in inside):
        raise InputError(f"{where} a distributed checkpoint without its .metadata. Download all of it.")
    if not found and "adapter_config.json" in inside:
        raise InputError(f"{where} an adapter_config.json without its weights: {listing(ADAPTER_NAMES)} is missing.")
    below = [] if found else list(folders_below(folder, (*WEIGHT_SUFFIXES, dcp_metadata.SUFFIX)))
    if below:
        raise InputError(f"{where} no weights itself, but these do: {listing(below)}. Name one.")
    if not found:
        raise InputError(
            f"{where} no weights ({listing(inside, 5) or 'nothing'}). Expected one of {listing(WEIGHT_NAMES)}."
        )
    if any("-of-" in name for name in found):
        raise InputError(
            f"{where} shards without their index ({listing(found, 3)}). Add the .index.json written with them."
        )
    raise InputError(f"{where} several weights files ({listing(found)}). Name the one to read.")


def _read_index(path: Path) -> Header:
    where = show(path.name)
    weight_map = strict_json.read(path, strict_json.MAX_INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise FormatError(f"{where} has no weight_map: it does not say which tensor is in which shard.")
    suffix = ".bin" if path.name.endswith(".bin" + INDEX_SUFFIX) else ".safetensors"
    placed = {key: require_plain_name(name, suffix, where) for key, name in weight_map.items()}
    listed = list(dict.fromkeys(placed.values()))
    here = [name for name in listed if exists(path.parent / name)]
    missing = sorted(set(listed).difference(here))
    shards, broken = {}, []
    for name in here:
        try:
            shards[name] = read_file(path.parent / name)
        except UnsafeFileError:
            raise
        except InputError as fault:
            broken.append(fault)
    absent = [
        f"{show(key)} ({show(name)})"
        for key, name in placed.items()
        if name in shards and key not in shards[name].tensors
    ]
    _require_whole(where, len(listed), missing, broken, absent)
    return _merged(where, placed, shards, _unlisted(path, suffix, listed))


def _require_whole(where: str, total: int, missing: list[str], broken: list[InputError], absent: list[str]) -> None:
    """Raise one error with everything that is wrong with the shards of an index."""
    if broken and not missing and not absent and len(broken) == 1:
        raise broken[0]
    wrong = []
    if missing:
        wrong.append(f"{count(len(missing), 'shard')} of {total} missing ({listing(missing)})")
    if absent:
        wrong.append(f"{count(len(absent), 'tensor')} not in the shard it names ({listing(absent, 5)})")
    if broken:
        wrong.append(f"{count(len(broken), 'shard')} unreadable ({listing(broken, 3)})")
    if wrong:
        raise FormatError(f"{where}: {'; '.join(wrong)}. Download what is missing or broken again.")


def _unlisted(path: Path, suffix: str, listed: list[str]) -> list[str]:
    beside = {name for name in names_in(path.parent) if "-of-" in name and name.endswith(suffix)}
    return sorted(beside.difference(listed))


def _merged(where: str, placed: dict[str, str], shards: dict[str, Header], unlisted: list[str]) -> Header:
    containers = {header.container for header in shards.values()}
    if len(containers) > 1:
        raise FormatError(f"{where}: its shards are of different formats ({listing(sorted(containers))}).")
    tensors: dict[str, TensorInfo] = {key: shards[name].tensors[key] for key, name in placed.items()}
    stray = [key for header in shards.values() for key in header.tensors if key not in placed]
    notes = []
    if stray:
        notes.append(f"{where} does not list {listing(stray, 5)}: not read")
    if unlisted:
        notes.append(f"{where} names no tensor of {listing(unlisted, 5)}: not read")
    files = tuple(header.files[0] for header in shards.values())
    metadata = {key: text for header in shards.values() for key, text in header.metadata.items()}
    return Header(f"{containers.pop()}, {count(len(shards), 'shard')}", files, tensors, metadata, tuple(notes))
