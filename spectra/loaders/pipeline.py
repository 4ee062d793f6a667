"""The folder of an image pipeline, one folder a component, read as one checkpoint.

diffusers writes `model_index.json` beside folders named after the components (`unet`, `text_encoder_2`,
`transformer`), each a checkpoint of its own; weights of the whole are named `component.weight`. Folders without
the index are known by the components' names.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from spectra.loaders import strict_json
from spectra.loaders.files import exists, names_in
from spectra.loaders.formats import INDEX_SUFFIX, WEIGHT_SUFFIXES
from spectra.loaders.header import FileRecord, Header, TensorInfo
from spectra.loaders.orientation import transposed_keys
from spectra.text import count, listing

if TYPE_CHECKING:
    from spectra.loaders.source import TensorSource

INDEX_NAME = "model_index.json"
COMPONENTS = "components"
_COMPONENT = re.compile(
    r"(?:unet|transformer|text_encoder|image_encoder|vae|vqvae|movq|prior|decoder|controlnet|safety_checker)(?:_\d+)?"
)


@dataclass(slots=True)
class Pipeline:
    """The components of a pipeline as one source. config: each component's own, by its name, under `components`."""

    label: str
    config: Mapping[str, Any]
    header: Header
    parts: Mapping[str, "TensorSource"]

    def tensor(self, key: str) -> torch.Tensor:
        component, _, name = key.partition(".")
        return self.parts[component].tensor(name)

    def close(self) -> None:
        for part in self.parts.values():
            part.close()


def components_of(folder: Path) -> tuple[str, ...]:
    """Return the names of a pipeline's components that have weights; nothing when it is no pipeline's folder.

    A folder with weights of its own and without `model_index.json` is a checkpoint, whatever lies beside them.
    """
    if not folder.is_dir():
        return ()
    inside, index = names_in(folder), folder / INDEX_NAME
    if exists(index):
        named = [name for name, made in strict_json.read(index).items() if isinstance(made, list) and any(made)]
    elif not any(map(_is_weights, inside)):
        named = [name for name in inside if _COMPONENT.fullmatch(name)]
    else:
        return ()
    folders = [name for name in inside if name in named and (folder / name).is_dir()]
    return tuple(name for name in folders if any(map(_is_weights, names_in(folder / name))))


def _is_weights(name: str) -> bool:
    return name.endswith((*WEIGHT_SUFFIXES, INDEX_SUFFIX))


def join(label: str, folder: Path, parts: Mapping[str, "TensorSource"]) -> Pipeline:
    """Return the components of a pipeline as one source, every name and file with its component in front."""
    tensors = {
        f"{component}.{key}": _renamed(info, component)
        for component, part in parts.items()
        for key, info in part.header.tensors.items()
    }
    notes = [f"{component}: {note}" for component, part in parts.items() for note in part.header.notes]
    beside = [name for name in names_in(folder) if _is_weights(name)]
    if beside:
        notes.append(f"{listing(beside, 5)} beside the components: not read")
    header = Header(f"pipeline, {count(len(parts), 'component')}", _files(parts), tensors, notes=tuple(notes))
    return Pipeline(label, _config(parts), header, parts)


def _renamed(info: TensorInfo, component: str) -> TensorInfo:
    return info if info.alias is None else replace(info, alias=f"{component}.{info.alias}")


def _files(parts: Mapping[str, "TensorSource"]) -> tuple[FileRecord, ...]:
    return tuple(
        replace(record, name=f"{component}/{record.name}")
        for component, part in parts.items()
        for record in part.header.files
    )


def _config(parts: Mapping[str, "TensorSource"]) -> dict[str, Any]:
    """Put the components' configurations together. What lies transposed is decided by each component's own."""
    transposed = []
    for component, part in parts.items():
        lies_transposed = transposed_keys(part.config, part.header.tensors)
        keys = [key for key in part.header.tensors if lies_transposed(key)]
        transposed += [f"{component}.{key.removesuffix('.weight')}" for key in keys]
    config: dict[str, Any] = {COMPONENTS: {name: part.config for name, part in parts.items()}}
    quantised = [part.config["quantization_config"] for part in parts.values() if "quantization_config" in part.config]
    if quantised:
        config["quantization_config"] = quantised[0]
    return {**config, "transposed_modules": transposed}
