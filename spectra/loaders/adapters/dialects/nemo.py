"""The dialects of NeMo: LoRA of NeMo 1 (`adapter_layer.lora_kqv_adapter`) and of NeMo 2 and Megatron-Bridge.

Both adapt the weights of Megatron, which fuse q, k and v, and gate and up: `dW = (alpha / dim) linear_out linear_in`
of the whole fused weight, so a base with Megatron's own names is read as it is. How the rows of a fused weight
belong to the Hub's separate ones depends on the query groups and on how the tensors were split over devices, which
an adapter does not say: with a base of the Hub it is refused. Alpha is not in the tensors: the caller tells it.
"""

import re

from spectra.errors import UnsupportedError
from spectra.loaders.adapters.adapter import Adapter, Dialect, Found
from spectra.loaders.adapters.contents import sort_tensors
from spectra.loaders.adapters.dialects.locating import located
from spectra.loaders.adapters.dialects.respelled import as_it_lies, respelled
from spectra.loaders.adapters.dialects.unconfigured import configured, given_alpha, stored_ranks
from spectra.loaders.adapters.families.lora import LORA
from spectra.loaders.adapters.family import Parsed
from spectra.loaders.plan import Plan
from spectra.text import listing, show

_FIRST = re.compile(r"^(?P<module>.+)\.adapter_layer\.(?P<kind>\w+)\.(?P<part>linear_in|linear_out)\.weight$")
_SECOND = re.compile(r"^(?P<module>.+)\.adapter\.(?P<part>linear_in|linear_out)\.weight$")
# The weight that an adapter of NeMo 1 belongs to, beside which it lies.
_ADAPTED = {
    "lora_kqv_adapter": "linear_qkv",
    "lora_dense_attention_adapter": "linear_proj",
    "lora_hto4h_adapter": "linear_fc1",
    "lora_4htoh_adapter": "linear_fc2",
}


def _parse(name: str) -> Parsed | None:
    second = _SECOND.match(name)
    if second is not None:
        return second["module"], second["part"], None
    first = _FIRST.match(name)
    weight = _ADAPTED.get(first["kind"]) if first is not None else None
    return (f"{first['module']}.{weight}", first["part"], None) if first is not None and weight is not None else None


FAMILY = respelled(LORA, _parse, {"linear_in": ("lora_A", as_it_lies), "linear_out": ("lora_B", as_it_lies)})


def _recognises(found: Found) -> bool:
    return found.kins == {"nemo"}


def _read(found: Found, plan: Plan) -> Adapter:
    strange = [name for name in found.source.header.tensors if _parse(name) is None]
    if strange:
        raise UnsupportedError(
            f"'{show(found.source.label)}' holds an adapter of NeMo of a kind that is not read, in tensors such as "
            f"'{show(strange[0])}'. Merge it with NeMo's own script and give the merged model."
        )
    contents = sort_tensors(FAMILY, plan)
    if not located(contents.modules, found):
        raise UnsupportedError(
            f"'{show(found.source.label)}' adapts the fused weights of Megatron ({listing(contents.modules, 2)}), "
            "which this base has not. Give a base with Megatron's names, or export both to the Hub's format with NeMo."
        )
    alpha, ranks = given_alpha(found, "NeMo"), stored_ranks(contents.modules.values(), found)
    return Adapter(configured(ranks, dict.fromkeys(ranks, alpha), {}), found.source, contents)


NEMO = Dialect("NeMo", _recognises, _read)
