"""The dialect of MLX (mlx-lm): `adapters.safetensors`, earlier `adapters.npz`, with `fine_tune_type` beside it.

A linear layer has `lora_a` `[in, r]` and `lora_b` `[r, out]`: `dW = scale (lora_a lora_b)^T`; an embedding has
`lora_a` `[vocab, r]` and `lora_b` `[r, dim]`: `dW = scale lora_a lora_b`. DoRA adds `m`, one for each row of the
weight, an embedding's too. `scale` is the factor itself; no alpha is divided by r. Experts are stacked: `lora_a`
`[experts, r, in]` (earlier `[r experts, in]`) and `lora_b` `[experts, out, r]`. `full` stores whole weights.
"""

from collections.abc import Collection
from dataclasses import replace

import torch

from spectra.errors import UnsupportedError
from spectra.loaders.adapters.adapter import Adapter, Dialect, Found, homes
from spectra.loaders.adapters.config import CONFIG_NAME, AdapterConfig, flag_in
from spectra.loaders.adapters.contents import Contents, Module, sort_tensors
from spectra.loaders.adapters.dialects.mlx_scale import scale_of
from spectra.loaders.adapters.dialects.respelled import as_it_lies, respelled, transposed
from spectra.loaders.adapters.dialects.unconfigured import configured, given_alpha, stored_ranks
from spectra.loaders.adapters.families.lora import LORA
from spectra.loaders.adapters.family import Family, Parsed
from spectra.loaders.experts import require_stack
from spectra.loaders.matching import INPUT_EMBEDDINGS, plain
from spectra.loaders.plan import Plan
from spectra.text import numbered, show

_PARTS = ("lora_a", "lora_b", "m")
_STACK = ".switch_mlp."
# What the experts of MLX's one naming are called in checkpoints of the Hub: mostly the same, in Mixtral's w1 to w3.
_IN_MIXTRAL = {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"}


def _parse(name: str) -> Parsed | None:
    module, _, part = name.rpartition(".")
    return (module, part, None) if module and part in _PARTS else None


LINEAR = respelled(
    LORA,
    _parse,
    {
        "lora_a": ("lora_A", transposed),
        "lora_b": ("lora_B", transposed),
        "m": ("lora_magnitude_vector", as_it_lies),
    },
)
EMBEDDING = respelled(
    LORA,
    _parse,
    {
        "lora_a": ("lora_B", as_it_lies),
        "lora_b": ("lora_A", as_it_lies),
        "m": ("lora_magnitude_vector", as_it_lies),
    },
)


def _expert(number: int, count: int) -> Family:
    """Return the family of one expert of a stack, whose factors lie as PEFT's do."""

    def own_a(stored: torch.Tensor) -> torch.Tensor:
        return stored.reshape(count, -1, stored.shape[-1])[number]

    def own_b(stored: torch.Tensor) -> torch.Tensor:
        return stored[number]

    return respelled(LORA, _parse, {"lora_a": ("lora_A", own_a), "lora_b": ("lora_B", own_b)})


def _recognises(found: Found) -> bool:
    declared = isinstance(found.raw.get("fine_tune_type"), str) or "lora_parameters" in found.raw
    return found.kins == {"mlx"} or (declared and "peft_type" not in found.raw)


def _read(found: Found, plan: Plan) -> Adapter:
    kind = found.raw.get("fine_tune_type", "dora" if flag_in(found.raw, "use_dora") else "lora")
    if kind == "full":
        names = {plain(key): key for key in found.source.header.tensors}
        return Adapter(configured({}, {}, found.raw), found.source, Contents(replaced=names))
    if kind not in ("lora", "dora"):
        raise UnsupportedError(f"{CONFIG_NAME}: the fine_tune_type {show(repr(kind), 40)} of MLX is not read.")
    sorted_out = sort_tensors(LINEAR, plan)
    modules: dict[str, Module] = {}
    known = homes(found.base)
    for module in sorted_out.modules.values():
        modules |= {one.name: one for one in _settled(module, known, found)}
    contents = replace(sorted_out, modules=modules)
    return Adapter(_config(found, contents, dora=kind == "dora"), found.source, contents)


def _settled(module: Module, known: Collection[str], found: Found) -> list[Module]:
    """Say what a module is: a linear layer, an embedding, or every expert of a stack."""
    stacked = module.parts.get("lora_b")
    if stacked is not None and len(shape := found.source.header.tensors[stacked].shape) == 3:
        require_stack(module.name, shape)
        shared = replace(module, share=shape[0])
        return [
            replace(shared, name=name, configured=name, index=index, family=_expert(number, shape[0]))
            for number, (name, index) in enumerate(_experts(module.name, shape[0], known))
        ]
    is_embedding = module.name.rpartition(".")[2] in INPUT_EMBEDDINGS
    return [replace(module, family=EMBEDDING) if is_embedding else module]


def _experts(stack: str, count: int, known: Collection[str]) -> list[tuple[str, int | None]]:
    """Return the names in the base of the experts that MLX stacks, with their numbers where the base stacks them too.

    Raises UnsupportedError for a stack of another kind than MLX's `switch_mlp`.
    """
    whole = f"{stack}.weight"
    if any(name.endswith(numbered(whole, 0)) for name in known):
        return [(numbered(whole, number), number) for number in range(count)]
    block, _, projection = stack.rpartition(_STACK)
    if not block:
        raise UnsupportedError(f"'{show(stack)}' adapts a stack of experts of an unknown kind, which is not read.")
    in_mixtral = _IN_MIXTRAL.get(projection, projection)
    if any(name.endswith(f".experts.0.{in_mixtral}") for name in known):
        projection = in_mixtral
    return [(f"{block}.experts.{number}.{projection}", None) for number in range(count)]


def _config(found: Found, contents: Contents, *, dora: bool) -> AdapterConfig:
    ranks = stored_ranks(contents.modules.values(), found)
    scale = scale_of(found.raw, told=found.options.alpha is not None)
    if scale is None:
        alpha = given_alpha(found, "an MLX adapter without its scale")
        alphas = dict.fromkeys(ranks, alpha)
    else:
        alphas = {name: scale * rank for name, rank in ranks.items()}
    base = found.raw.get("model")
    config = configured(ranks, alphas, found.raw)
    return replace(config, use_dora=dora, base_model=base if isinstance(base, str) else None)


MLX = Dialect("MLX", _recognises, _read)
