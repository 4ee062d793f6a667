"""The dialect of llama.cpp: LoRA in a GGUF file, named after the weights it adapts (`blk.0.attn_q.weight.lora_a`).

`dW = s lora_b lora_a` with lora_a `[r, in]`, lora_b `[out, r]` and `s = alpha / r`, or 1 where alpha is 0. There is one
alpha for the whole file: what its converter was given of rsLoRA or of an alpha_pattern is lost. The embedding's lora_a
is stored transposed, `[vocab, r]`. Rows of q and k lie as they do in a GGUF model: see `gguf_names`. Experts are
stacked: lora_a `[experts, r, in]`, lora_b `[experts, out, r]`.
"""

import math
from collections.abc import Collection
from dataclasses import replace

import torch

from spectra.errors import FormatError, UnsupportedError
from spectra.loaders.adapters.adapter import Adapter, Dialect, Found, homes
from spectra.loaders.adapters.contents import Module, sort_tensors
from spectra.loaders.adapters.dialects.respelled import Turn, as_it_lies, respelled, transposed
from spectra.loaders.adapters.dialects.unconfigured import configured, given_alpha, stored_ranks
from spectra.loaders.adapters.families.lora import LORA
from spectra.loaders.adapters.family import Parsed
from spectra.loaders.experts import require_stack
from spectra.loaders.gguf_names import Naming, naming_of
from spectra.loaders.plan import Plan
from spectra.text import numbered, show

_ALPHA, _CONDITION = "adapter.lora.alpha", "adapter.alora.invocation_tokens"
# What the Hub calls the numbers that decide the order of rows, and what GGUF does.
_HEADS = {"num_attention_heads": "attention.head_count", "num_key_value_heads": "attention.head_count_kv"}


def _parse(name: str) -> Parsed | None:
    weight, _, part = name.rpartition(".")
    return (weight, part, None) if weight.endswith(".weight") and part in ("lora_a", "lora_b") else None


STRAIGHT = respelled(LORA, _parse, {"lora_a": ("lora_A", as_it_lies), "lora_b": ("lora_B", as_it_lies)})
EMBEDDING = respelled(LORA, _parse, {"lora_a": ("lora_B", as_it_lies), "lora_b": ("lora_A", transposed)})


def _recognises(found: Found) -> bool:
    return found.source.header.metadata.get("general.type") == "adapter" or found.kins == {"gguf"}


def _read(found: Found, plan: Plan) -> Adapter:
    told = found.source.header.metadata
    if told.get("adapter.type") != "lora":
        kind = show(told.get("adapter.type", "unnamed"), 40)
        raise UnsupportedError(f"'{show(found.source.label)}' is an adapter of llama.cpp of the type {kind}, not lora.")
    if _CONDITION in told:
        plan.notes.append("activated LoRA: the update acts only on the tokens after its invocation tokens")
    naming, known = _naming(found), homes(found.base)
    sorted_out = sort_tensors(STRAIGHT, plan)
    settled = [one for module in sorted_out.modules.values() for one in _settled(module, naming, known, found)]
    contents = replace(
        sorted_out,
        modules={module.name: module for module in settled},
        replaced={naming.name(name): key for name, key in sorted_out.replaced.items()},
    )
    ranks = stored_ranks(settled, found)
    alpha = _alpha(found)
    alphas = {module: alpha or float(rank) for module, rank in ranks.items()}
    return Adapter(configured(ranks, alphas, {}), found.source, contents)


def _alpha(found: Found) -> float:
    stored = found.source.header.metadata.get(_ALPHA)
    if stored is None:
        return given_alpha(found, "this GGUF file")
    try:
        alpha = float(stored)
    except ValueError:
        alpha = math.nan
    if not math.isfinite(alpha):
        raise FormatError(f"'{show(found.source.label)}': {_ALPHA} is {show(stored, 40)}; it must be a finite number.")
    return alpha


def _naming(found: Found) -> Naming:
    """Return how the adapter's names and rows relate to the Hub's; the numbers of heads are the base's."""
    naming, base = naming_of(found.source.header), found.base
    if base.naming.architecture:
        return replace(naming, told=base.naming.told)
    config = base.source.config
    heads = config.get("num_attention_heads")
    numbers = {gguf: config.get(name, heads) for name, gguf in _HEADS.items()}
    told = {f"{naming.architecture}.{name}": str(number) for name, number in numbers.items() if number is not None}
    return replace(naming, told=told)


def _settled(module: Module, naming: Naming, known: Collection[str], found: Found) -> list[Module]:
    """Say what a module is: a weight with its rows in some order, the embedding, or every expert of a stack."""
    weight = module.name
    if naming.is_turned(weight):
        raise UnsupportedError(
            f"'{show(found.source.label)}': llama.cpp converts adapters of GPT-2 without turning their factors, and "
            "does not load them. Give the adapter it was made from."
        )
    name = naming.name(weight)
    if naming.is_stack(weight):
        return _experts(module, name, known, found)
    plain = name.removesuffix(".weight")
    module = replace(module, name=plain, configured=plain)
    if weight == "token_embd.weight":
        return [replace(module, family=EMBEDDING)]
    B = module.parts.get("lora_b")
    shape = found.source.header.tensors[B].shape if B is not None else ()
    layout = naming.layout(weight, shape) if len(shape) == 2 else None
    if layout is None or not layout.heads:
        return [module]
    turned = {"lora_a": ("lora_A", as_it_lies), "lora_b": ("lora_B", layout.to_matrix)}
    return [replace(module, family=respelled(LORA, _parse, turned))]


def _experts(module: Module, name: str, known: Collection[str], found: Found) -> list[Module]:
    """Return a module for every expert, under its name in the base, where they may be stacked too."""
    shapes = [found.source.header.tensors[key].shape for key in module.parts.values()]
    count = shapes[0][0] if len(shapes[0]) == 3 else 0
    if count:
        require_stack(name, shapes[0])
    stacked = any(other.endswith(numbered(name, 0)) for other in known)
    experts = []
    for number in range(count):
        plain = numbered(name, number) if stacked else name.removesuffix(".weight").replace("#", str(number))
        own = _number(number)
        family = respelled(LORA, _parse, {"lora_a": ("lora_A", own), "lora_b": ("lora_B", own)})
        index = number if stacked else None
        experts.append(replace(module, name=plain, configured=plain, family=family, index=index, share=count))
    if not experts:
        raise FormatError(f"'{show(module.name)}' of '{show(found.source.label)}' is no stack of experts: {shapes}.")
    return experts


def _number(number: int) -> Turn:
    def own(stored: torch.Tensor) -> torch.Tensor:
        return stored[number]

    return own


GGUF_LORA = Dialect("llama.cpp", _recognises, _read)
