"""Which adapters insert matrices beside the weights, told by their names and configuration alone. Torch-free."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from spectra.loaders.header import FLOATS, TensorInfo

PROMPT = "prompt_embeddings"
BOTTLENECK = re.compile(r"^(?P<place>.+)\.adapters\.[^.]+\.(?P<part>adapter_down\.0|adapter_up)\.weight$")
HUB_PREFIX = re.compile(r"^(?P<place>.+)\.prefix_tuning\.pool\.prefix_tunings\.(?P<rest>[^.]+\.[^.]+)\.wte\.weight$")
LLAMA_ADAPTER = re.compile(r"^(?:base_model\.model\.)?(?P<place>.+)\.adaption_prompt$")
_PROMPTS = {
    "PROMPT_TUNING": "prompt tuning",
    "P_TUNING": "P-tuning",
    "CPT": "context-aware prompt tuning",
    "MULTITASK_PROMPT_TUNING": "prompt tuning",
}
_PREFIXES = ("PREFIX_TUNING", "CARTRIDGE")

Form = Literal["prefix", "prompt", "layer prompts", "bottlenecks", "hub prefix"]


@dataclass(frozen=True, slots=True)
class Kind:
    """What people call the method, and how its matrices lie in the file."""

    name: str
    form: Form


def kind_of(names: Mapping[str, TensorInfo], raw: Mapping[str, Any]) -> Kind | None:
    """Return what an adapter inserts, None where it inserts nothing that is read.

    raw : its `adapter_config.json`, empty where there is none.
    """
    method = str(raw.get("peft_type", "")).upper()
    if method in _PREFIXES and PROMPT in names:
        return Kind("prefix tuning", "prefix")
    if PROMPT in names and (method in _PROMPTS or not raw):
        return Kind(_PROMPTS.get(method, "prompt tuning"), "prompt")
    if method == "ADAPTION_PROMPT":
        return Kind("LLaMA-Adapter", "layer prompts")
    if any(BOTTLENECK.match(key) for key in names):
        return Kind("bottleneck adapter", "bottlenecks")
    if any(HUB_PREFIX.match(key) for key in names):
        return Kind("prefix tuning (AdapterHub)", "hub prefix")
    if len(names) == 1 and not raw and all(len(info.shape) == 2 and info.dtype in FLOATS for info in names.values()):
        return Kind("soft prompt (one bare matrix)", "prompt")
    return None
