"""Factors under numbers alone: LoRA-ViT's `w_a_000` and `w_b_000`, which name no module.

`dW = (alpha / r) B A`. Which weight a number belongs to is known to the trainer only, so the caller tells it
(`{"000": "blocks.0.attn.proj_q"}`), and alpha with it. The factors lie as `[r, in]` and `[out, r]`, or both
transposed: the rank is the smaller extent.
"""

import re
from dataclasses import replace

from spectra.errors import UnsupportedError
from spectra.loaders.adapters.adapter import Adapter, Dialect, Found
from spectra.loaders.adapters.contents import Module, sort_tensors
from spectra.loaders.adapters.dialects.respelled import as_it_lies, respelled, transposed
from spectra.loaders.adapters.dialects.unconfigured import configured, given_alpha, stored_ranks
from spectra.loaders.adapters.families.lora import LORA
from spectra.loaders.adapters.family import Parsed
from spectra.loaders.options import given_as
from spectra.loaders.plan import Plan
from spectra.text import listing, show

_NAME = re.compile(r"^w_(?P<part>[ab])_(?P<number>\d+)$")


def _parse(name: str) -> Parsed | None:
    match = _NAME.match(name)
    return match and (match["number"], f"w_{match['part']}", None)


STRAIGHT = respelled(LORA, _parse, {"w_a": ("lora_A", as_it_lies), "w_b": ("lora_B", as_it_lies)})
TURNED = respelled(LORA, _parse, {"w_a": ("lora_A", transposed), "w_b": ("lora_B", transposed)})


def _recognises(found: Found) -> bool:
    return found.kins == {"vit"}


def _read(found: Found, plan: Plan) -> Adapter:
    contents = sort_tensors(STRAIGHT, plan)
    untold = [number for number in contents.modules if number not in found.options.names]
    if untold:
        raise UnsupportedError(
            f"'{show(found.source.label)}' numbers its factors ({listing(untold, 3)}) and names no module. Say which "
            f'they belong to with {given_as("names")}: {{"{show(untold[0])}": "blocks.0.attn.proj_q", ...}}.'
        )
    alpha = given_alpha(found, "LoRA-ViT")
    modules = {name: _settled(module, found) for name, module in contents.modules.items()}
    ranks = stored_ranks(modules.values(), found)
    return Adapter(configured(ranks, dict.fromkeys(ranks, alpha), {}), found.source, replace(contents, modules=modules))


def _settled(module: Module, found: Found) -> Module:
    """Say which way the factors of a module lie."""
    shape = found.source.header.tensors[next(iter(module.parts.values()))].shape
    if len(shape) == 2 and shape[0] == shape[1]:
        raise UnsupportedError(
            f"'{show(module.name)}' in '{show(found.source.label)}': a square factor {list(shape)} may lie either way. "
            "Save the product of the two as a full difference."
        )
    key = module.parts.get("w_a")
    if key is None or len(shape) != 2:
        return module  # refused by its name, whichever way it lies
    rows, columns = found.source.header.tensors[key].shape
    return replace(module, family=TURNED) if rows > columns else module


BARE = Dialect("LoRA-ViT", _recognises, _read)
