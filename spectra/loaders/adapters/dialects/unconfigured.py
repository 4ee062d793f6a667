"""The configuration of an adapter whose file says nothing of its alpha, or says it module by module."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from spectra.errors import UnsupportedError
from spectra.loaders.adapters.adapter import Found
from spectra.loaders.adapters.config import AdapterConfig, read_config
from spectra.loaders.adapters.contents import Module, shapes_of
from spectra.loaders.options import given_as
from spectra.text import show

_Number = TypeVar("_Number", int, float)
_NOTHING_KNOWN = AdapterConfig("LORA", 1, 1.0)


def given_alpha(found: Found, writer: str) -> float:
    """Return the alpha that the caller gave. Raises UnsupportedError, saying why it is needed, when there is none."""
    alpha = found.alpha_given()
    if alpha is None:
        raise UnsupportedError(
            f"'{show(found.source.label)}': {writer} saves no alpha, so the scaling alpha / r of its updates is "
            f"unknown. Give the alpha it was trained with: {given_as('alpha')}."
        )
    return alpha


def peft_config(found: Found) -> AdapterConfig:
    """Read the configuration that PEFT wrote; an alpha that it leaves out is the caller's, if there is one."""
    config = read_config(found.raw)
    name = next((name for name in config.left_out if name.endswith("alpha")), "")
    alpha = found.alpha_given() if name else None
    return config if alpha is None else replace(config, alpha=alpha, raw={**config.raw, name: alpha})


def stored_ranks(modules: Iterable[Module], found: Found) -> dict[str, int]:
    """Return the rank of every module as its factors have it. Raises MatchError where they are no factors."""
    ranks = {}
    for module in modules:
        shapes = shapes_of(module, found.source)
        module.family.fits(module.name, shapes, _NOTHING_KNOWN)
        ranks[module.configured] = module.family.rank(shapes, _NOTHING_KNOWN) or 1
    return ranks


def configured(
    ranks: Mapping[str, int], alphas: Mapping[str, float], raw: Mapping[str, Any], *, fan_in_fan_out: bool = False
) -> AdapterConfig:
    """Return a configuration that gives each module its own rank and alpha: `scaling_of(module)` is their ratio."""
    r, rank_pattern = _commonest(ranks, 1)
    alpha, alpha_pattern = _commonest(alphas, 1.0)
    return AdapterConfig(
        method="LORA",
        r=r,
        alpha=alpha,
        rank_pattern=rank_pattern,
        alpha_pattern=alpha_pattern,
        fan_in_fan_out=fan_in_fan_out,
        raw=raw,
    )


def _commonest(values: Mapping[str, _Number], otherwise: _Number) -> tuple[_Number, dict[str, _Number]]:
    """Return the value that most modules have, and patterns that match the other modules and nothing else."""
    most = Counter(values.values()).most_common(1)
    common = most[0][0] if most else otherwise
    return common, {f"^{re.escape(name)}": value for name, value in values.items() if value != common}
