"""The dialect of torchtune: `adapter_model.pt`, earlier `adapter_0.pt`, in its own names, and its export for PEFT.

Its names are those of its own models (`layers.0.attn.q_proj.lora_a.weight`), whose q and k have the rows of each head
in the order of an interleaved rotary embedding; for a base of the Hub the rows of `lora_b`, and of DoRA's
`magnitude`, are put in the Hub's order, as torchtune's own conversion of whole weights does. That conversion leaves
Qwen2 alone. The export for PEFT is reordered already, save the magnitude, and its configuration does not say that it
is DoRA. `dW = (alpha / r) B A`.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from spectra.errors import MatchError, UnsupportedError
from spectra.layout import Layout
from spectra.loaders.adapters.adapter import Adapter, Dialect, Found
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.contents import Contents, Module, sort_tensors
from spectra.loaders.adapters.dialects.respelled import Turn, as_it_lies, respelled
from spectra.loaders.adapters.dialects.unconfigured import configured, given_alpha, peft_config, stored_ranks
from spectra.loaders.adapters.families.lora import LORA
from spectra.loaders.adapters.family import Family, by_suffix
from spectra.loaders.plan import Plan
from spectra.text import show

_IN_THE_HUB = {
    "attn.q_proj": "self_attn.q_proj",
    "attn.k_proj": "self_attn.k_proj",
    "attn.v_proj": "self_attn.v_proj",
    "attn.output_proj": "self_attn.o_proj",
    "mlp.w1": "mlp.gate_proj",
    "mlp.w2": "mlp.down_proj",
    "mlp.w3": "mlp.up_proj",
}
# The count of heads, by projection, under the name it has in the Hub's configurations.
_HEADS = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
_INTERLEAVED = ("llama", "mistral", "gemma", "gemma2")
_IN_ORDER = ("qwen2",)
# All that torchtune's export writes into adapter_config.json. PEFT writes all its fields, `use_dora` among them.
_EXPORTED = {"r", "lora_alpha", "target_modules", "peft_type", "base_model_name_or_path"}
_MAGNITUDE = "lora_magnitude_vector"


def _own(reorder: Turn) -> Family:
    """Return the family of torchtune's own tensors, with the rows of its outputs reordered."""
    spelling = {"lora_a": ("lora_A", as_it_lies), "lora_b": ("lora_B", reorder), "magnitude": (_MAGNITUDE, reorder)}
    return respelled(LORA, by_suffix(*spelling), spelling)


def _exported(reorder: Turn) -> Family:
    """Return the family of the export for PEFT, with the magnitude alone reordered."""
    return respelled(LORA, LORA.parse, {_MAGNITUDE: (_MAGNITUDE, reorder)})


def _is_export(found: Found) -> bool:
    """Say whether these are PEFT's names with a magnitude, beside a configuration that PEFT did not write."""
    given = found.raw.keys()
    torchtunes = given <= _EXPORTED and given >= _EXPORTED - {"base_model_name_or_path"}
    return torchtunes and any(name.endswith(_MAGNITUDE) for name in found.source.header.tensors)


def _recognises(found: Found) -> bool:
    return found.kins == {"torchtune"} or _is_export(found)


def _read(found: Found, plan: Plan) -> Adapter:
    family = _exported if _is_export(found) else _own
    sorted_out = sort_tensors(family(as_it_lies), plan)
    modules = [_settled(module, family, found.base.source.config) for module in sorted_out.modules.values()]
    contents = replace(sorted_out, modules={module.name: module for module in modules})
    config = peft_config(found) if found.raw else _unconfigured(found, contents)
    return Adapter(config, found.source, contents)


def _settled(module: Module, family: Callable[[Turn], Family], model: Mapping[str, Any]) -> Module:
    name = _hub_name(module.name)
    if family is _exported and model.get("model_type") in _IN_ORDER and name.rpartition(".")[2] in _HEADS:
        raise UnsupportedError(
            f"'{show(name)}': torchtune's export for PEFT reorders the rows of its lora_B and not those of its "
            "magnitude, and the weights of this model not at all. Give the adapter_model.pt beside it."
        )
    heads = _heads(name, model)
    return replace(module, name=name, configured=name, family=family(_by_heads(heads, name) if heads else as_it_lies))


def _hub_name(name: str) -> str:
    """Return the name that a module of torchtune has in the Hub; any other name as it is."""
    if name == "output":
        return "lm_head"
    if name == "tok_embeddings":
        return "model.embed_tokens"
    path = name.split(".")
    own = _IN_THE_HUB.get(".".join(path[2:])) if path[0] == "layers" else None
    return f"model.layers.{path[1]}.{own}" if own else name


def _heads(name: str, model: Mapping[str, Any]) -> int:
    """Return how many heads of interleaved rows a module has, 0 where its rows lie as in the Hub.

    Raises UnsupportedError where the base does not say, or is of an architecture whose conversion is not known here.
    """
    field = _HEADS.get(name.rpartition(".")[2])
    if field is None or model.get("model_type") in _IN_ORDER:
        return 0
    heads = model.get(field, model.get("num_attention_heads"))
    if model.get("model_type") not in _INTERLEAVED or isinstance(heads, bool) or not isinstance(heads, int):
        raise UnsupportedError(
            f"'{show(name)}': torchtune orders the rows of q and k by heads, and the base's config.json does not say "
            f"how many ({field}) or is of no architecture that is known here. Give the base with its config.json."
        )
    return heads


def _by_heads(heads: int, name: str) -> Turn:
    def reorder(stored: torch.Tensor) -> torch.Tensor:
        rows = stored.shape[0]
        if heads < 1 or rows % (2 * heads):
            raise MatchError(f"'{show(name)}': {rows} rows are not {heads} heads of an even size.")
        matrix = stored.reshape(rows, -1)
        return Layout("linear", tuple(matrix.shape), heads).to_matrix(matrix).reshape(stored.shape)

    return reorder


def _unconfigured(found: Found, contents: Contents) -> AdapterConfig:
    alpha = given_alpha(found, "an adapter of torchtune without its adapter_config.json")
    ranks = stored_ranks(contents.modules.values(), found)
    return configured(ranks, dict.fromkeys(ranks, alpha), {})


TORCHTUNE = Dialect("torchtune", _recognises, _read)
