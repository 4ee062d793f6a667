"""Which modules of a base the configuration of an adapter targets, by PEFT's own rules. Torch-free."""

import re
from collections.abc import Iterable
from typing import Any

from spectra.errors import UnsupportedError
from spectra.loaders.adapters.config import CONFIG_NAME, AdapterConfig
from spectra.loaders.adapters.patterns import matches_whole
from spectra.text import show

_LAYER = re.compile(r"^.*?\.[^.]*\.(?P<number>\d+)\.")


def targeted(config: AdapterConfig, modules: Iterable[str]) -> list[str]:
    """Return the modules that the adapter is put on: what target_modules names and nothing excludes.

    Raises UnsupportedError where the rules are more than names: `layers_pattern`.
    """
    raw = config.raw
    if raw.get("layers_pattern"):
        raise UnsupportedError(
            f"{CONFIG_NAME}: layers_pattern ('{show(raw['layers_pattern'])}') is not read for a method whose file does "
            "not name its modules."
        )
    chosen = [name for name in modules if _is_named(raw.get("target_modules"), name)]
    return [
        name
        for name in chosen
        if not _is_named(raw.get("exclude_modules"), name)
        and not any(f".{saved}." in f".{name}." for saved in config.saved_modules)
        and _is_transformed(raw.get("target_modules"), raw.get("layers_to_transform"), name)
    ]


def parameters(config: AdapterConfig, names: Iterable[str]) -> list[str]:
    """Return the parameters that the adapter is put on by name, as PEFT does with experts: `target_parameters`."""
    return [name for name in names if _is_named(config.raw.get("target_parameters"), name)]


def _is_named(given: Any, name: str) -> bool:
    if isinstance(given, str):
        return matches_whole(given, name, CONFIG_NAME)
    return isinstance(given, list) and any(name == one or name.endswith(f".{one}") for one in given)


def _is_transformed(given: Any, layers: Any, name: str) -> bool:
    """Return whether a layer is among those transformed; a module named in full, or by a pattern, always is."""
    if layers is None or layers == [] or isinstance(given, str) or name in given:
        return True
    match = _LAYER.match(name)
    return match is not None and int(match["number"]) in (layers if isinstance(layers, list) else [layers])
