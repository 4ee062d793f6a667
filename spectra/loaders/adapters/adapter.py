"""An adapter in one spelling, whatever dialect its file is written in, and the contract of a dialect."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from spectra.loaders.adapters.config import AdapterConfig, read_raw
from spectra.loaders.adapters.contents import Contents
from spectra.loaders.base import Base
from spectra.loaders.files import exists
from spectra.loaders.formats import ADAPTER_NAMES, WEIGHT_NAMES
from spectra.loaders.matching import plain
from spectra.loaders.methods import Method, recognise
from spectra.loaders.options import ReadOptions
from spectra.loaders.plan import Plan
from spectra.loaders.source import TensorSource, open_source
from spectra.text import numbered

# What a vision-language model's parts are called on disk, and in memory since transformers 4.52.
_RENAMED = (
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head", "lm_head"),
    ("vision_tower.", "model.vision_tower."),
    ("vision_model.", "model.vision_model."),
    ("visual.", "model.visual."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
)
_WEIGHT_NAMES = (".weight", ".in_proj_weight", "")


@dataclass(frozen=True)
class Found:
    """What lies at a path: its folder, its tensors, its adapter configuration (empty where there is none).

    base : what it is compared with, whose shapes and configuration tell what some dialects leave out. needed : the
    options that the files left room for, put there when they are asked for.
    """

    path: Path
    source: TensorSource
    raw: Mapping[str, Any]
    base: Base
    options: ReadOptions = field(default_factory=ReadOptions)
    needed: set[str] = field(default_factory=set)

    def alpha_given(self) -> float | None:
        """Return the alpha that the caller gave, to be asked for only where the files have none."""
        self.needed.add("alpha")
        return self.options.alpha

    @property
    def folder(self) -> Path:
        return self.path if self.path.is_dir() else self.path.parent

    @cached_property
    def methods(self) -> tuple[Method, ...]:
        """The ways of writing updates that the tensor names show."""
        return recognise(self.source.header.tensors).methods

    @property
    def kins(self) -> set[str]:
        """The kin of those rows: `kohya`, `mlx`, `hub`, ..."""
        return {method.kin for method in self.methods}


def opened(path: Path) -> tuple[TensorSource, Mapping[str, Any]]:
    """Open what lies at a path, with its adapter configuration; an adapter's own files come before a model's."""
    folder = path if path.is_dir() else path.parent
    raw = read_raw(folder) if path.is_dir() or path.name not in WEIGHT_NAMES else {}
    adapter = path.is_dir() and (raw or any(exists(folder / name) for name in ADAPTER_NAMES))
    return open_source(path, ADAPTER_NAMES if adapter else WEIGHT_NAMES), raw


def homes(base: Base) -> Mapping[str, str]:
    """Map every name a module can have to the base key of its weight; `name[3]` is expert 3 of a stack."""
    known: dict[str, str] = {}
    for key, info in base.tensors.items():
        if len(info.shape) < 2:
            continue
        for suffix in _WEIGHT_NAMES:
            name = plain(base.name(key))
            if name.endswith(suffix):
                known.setdefault(name.removesuffix(suffix), key)
        for index in base.indices(key):
            known.setdefault(numbered(plain(base.name(key)), index), key)
            known.setdefault(plain(base.name(key, index)).removesuffix(".weight"), key)
    return {**_renamed(known), **known}


def _renamed(known: Mapping[str, str]) -> dict[str, str]:
    """Return the names that transformers 5 has in memory for a vision-language model that lies under older ones."""
    fronts = [(before, after) for before, after in _RENAMED if any(name.startswith(before) for name in known)]
    towers = any(after.startswith(("model.vision", "model.visual")) for _, after in fronts)
    inner = any(name.startswith("language_model.") for name in known)
    rules = [*fronts, *([("model.", "model.language_model.")] if towers and not inner else [])]
    return {
        after + name.removeprefix(before): key
        for before, after in rules
        for name, key in known.items()
        if name.startswith(before)
    }


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter read: its configuration, the tensors it reads from, and what they are.

    homes : from each name that a module can have in this dialect to the base key of its weight; by default the
    names of the base's own modules. initial : the adapter as it was before training, where the caller gave it.
    """

    config: AdapterConfig
    source: TensorSource
    contents: Contents
    homes: Callable[[Base], Mapping[str, str]] = homes
    initial: "Adapter | None" = None


@dataclass(frozen=True, slots=True)
class Dialect:
    """One way of writing adapters to disk.

    name : as people call it; recognises : whether what was found is written in it; read : make an Adapter of it,
    putting what is no update on `plan.skipped` and what a reader must know on `plan.notes`.
    """

    name: str
    recognises: Callable[[Found], bool]
    read: Callable[[Found, Plan], Adapter]
