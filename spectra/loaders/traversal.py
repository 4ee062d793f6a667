"""The order in which a model's own code has its modules, in which some methods count or draw. Torch-free.

Files are sorted by name and do not tell it; a model in memory does. For the architectures here it is that of the
layers, and within one that of the table; a test holds the table against transformers.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

_LLAMA = "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj mlp.gate_proj mlp.up_proj mlp.down_proj"
_BERT = (
    "attention.self.query attention.self.key attention.self.value attention.output.dense intermediate.dense "
    "output.dense"
)
_ORDERS = {
    "llama mistral qwen2 qwen3 gemma gemma2 gemma3_text olmo olmo2 granite smollm3": _LLAMA,
    "phi3": "self_attn.o_proj self_attn.qkv_proj mlp.gate_up_proj mlp.down_proj",
    "gpt2": "attn.c_attn attn.c_proj mlp.c_fc mlp.c_proj",
    "gpt_neox": "attention.query_key_value attention.dense mlp.dense_h_to_4h mlp.dense_4h_to_h",
    "bloom": "self_attention.query_key_value self_attention.dense mlp.dense_h_to_4h mlp.dense_4h_to_h",
    "opt": "self_attn.k_proj self_attn.v_proj self_attn.q_proj self_attn.out_proj fc1 fc2",
    "bert roberta xlm-roberta camembert electra": _BERT,
    "distilbert": "attention.q_lin attention.k_lin attention.v_lin attention.out_lin ffn.lin1 ffn.lin2",
}
WITHIN: Mapping[str, tuple[str, ...]] = {
    name: tuple(order.split()) for names, order in _ORDERS.items() for name in names.split()
}
_LAYER = re.compile(r"^(?P<stack>(?:.+\.)?(?:layers|layer|h))\.(?P<number>\d+)\.(?P<rest>.+)$")


def in_order(modules: Collection[str], config: Mapping[str, Any], walked: Iterable[str] | None) -> list[str] | None:
    """Return modules as the model's code has them, None where that is not known.

    walked : the names of a model in memory in its own order, None for a file.
    """
    if walked is not None:
        return [name for name in walked if name in modules]
    within = None if "auto_map" in config else WITHIN.get(str(config.get("model_type")))
    found = [_LAYER.match(name) for name in modules]
    known = [match for match in found if match is not None and within is not None and match["rest"] in within]
    if within is None or len(known) < len(found) or len({match["stack"] for match in known}) > 1:
        return None
    return [match[0] for match in sorted(known, key=lambda match: (int(match["number"]), within.index(match["rest"])))]
