"""A PEFT method that has no family here: its update as PEFT itself merges it, one module at a time.

A shell of empty modules leads to one layer that holds the base's one weight; PEFT wraps that layer, takes the
module's tensors and merges. The model is never built. Needs the extra `peft`.
"""

import importlib
import importlib.util
import warnings
from typing import Any

import torch

from spectra.errors import MachineError, MatchError, UnsupportedError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family, Parsed, Target
from spectra.text import listing, show
from spectra.updates import Dense, Update

INSTALL = "pip install 'spectra-weights[peft]'"
# What a configuration says of the whole model and not of one layer.
_OF_THE_MODEL = (
    "modules_to_save", "exclude_modules", "layers_to_transform", "layers_pattern", "base_model_name_or_path",
    "revision", "auto_mapping", "task_type", "peft_type",
)  # fmt: skip


_WORDS = ("bias", "init_weights", "mask_type", "peft_version", "target_modules")  # texts that are a choice


def through_peft(config: AdapterConfig) -> Family | None:
    """Return the family of a method that the installed PEFT knows; None where it does not, or is not there."""
    prefix = _prefix(config.method)
    if prefix is None:
        return None

    def parse(name: str) -> Parsed | None:
        path = name.split(".")
        at = next((place for place, part in enumerate(path) if place and part.startswith(prefix)), None)
        return None if at is None else (".".join(path[:at]), ".".join(path[at:]), None)

    return Family(
        method=config.method,
        parse=parse,
        update=_merged,
        label=lambda config, parts: f"{config.method} (through PEFT)",
        notes=lambda config: (f"{config.method} as PEFT {_peft().__version__} merges it, one module at a time",),
    )


def installed() -> bool:
    """Return whether PEFT is there to be asked."""
    return importlib.util.find_spec("peft") is not None


def _peft() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("peft")
    except ImportError:
        raise MachineError(f"this method is read through PEFT, which is not installed: {INSTALL}") from None


def _prefix(method: str) -> str | None:
    """Return what the names of a method's parameters begin with, None for one that the installed PEFT has not."""
    if not installed():
        return None
    _peft()
    tables = importlib.import_module("peft.mapping")
    known: dict[str, str] = {str(kind.value): prefix for kind, prefix in tables.PEFT_TYPE_TO_PREFIX_MAPPING.items()}
    return known.get(method)


def _merged(target: Target) -> Update:
    """Return `W' - W0` of one layer, merged in float64."""
    peft, W0 = _peft(), target.base().double()
    _require_no_names(target)
    raw = {key: value for key, value in target.config.raw.items() if key not in _OF_THE_MODEL}
    leaf = target.module.rpartition(".")[2]
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        try:
            settings = peft.PeftConfig.from_peft_type(
                peft_type=target.config.method, **{**raw, "target_modules": [leaf]}
            )
            model = peft.get_peft_model(_shell(target, W0), settings).double()
            state = {f"base_model.model.{target.module}.{part}": tensor for part, tensor in target.parts.items()}
            loaded = peft.set_peft_model_state_dict(model, {key: tensor.double() for key, tensor in state.items()})
            layer = model.base_model.model.get_submodule(target.module)
            layer.merge(safe_merge=False)
        except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, RuntimeError, OSError) as fault:
            raise UnsupportedError(
                f"'{show(target.module)}': PEFT {peft.__version__} cannot merge this {target.config.method} module "
                f"alone ({show(fault)}). Merge the adapter with PEFT and diagnose the merged model."
            ) from None
    if loaded.unexpected_keys:
        raise MatchError(f"'{show(target.module)}': PEFT has no place for {listing(loaded.unexpected_keys, 3)}.")
    weight = layer.get_base_layer().weight.detach()
    return Dense((target.layout.to_matrix(weight) - W0).float())


def _require_no_names(target: Target) -> None:
    """Refuse a configuration with texts, before PEFT sees it: they may name a model to fetch or a file to open."""
    texts = [
        key
        for key, value in target.config.raw.items()
        if isinstance(value, str) and key not in (*_OF_THE_MODEL, *_WORDS)
    ]
    if texts:
        raise UnsupportedError(
            f"{target.config.method} is read through PEFT only where its configuration holds numbers and flags, and "
            f"this one has {listing(texts, 5)}, which may name a model or a file. Merge the adapter with PEFT."
        )


def _shell(target: Target, W0: torch.Tensor) -> torch.nn.Module:
    """Return empty modules that lead to one layer under the target's own name."""
    *path, leaf = target.module.split(".")
    outer = here = torch.nn.Module()
    for step in path:
        here.add_module(step, torch.nn.Module())
        here = here.get_submodule(step)
    here.add_module(leaf, _layer(target, W0))
    return outer


def _layer(target: Target, W0: torch.Tensor) -> torch.nn.Module:
    m, n = W0.shape
    if target.layout.kind == "kernel":
        raise UnsupportedError(f"'{show(target.module)}': a convolution is not read through PEFT. Merge it with PEFT.")
    if target.layout.kind == "transposed":
        conv = importlib.import_module("transformers.pytorch_utils").Conv1D(m, n)
        conv.weight.data = W0.T.clone()
        return conv  # type: ignore[no-any-return]
    layer = torch.nn.Linear(n, m, bias=False)
    layer.weight.data = W0.clone()  # merging writes into it
    return layer
