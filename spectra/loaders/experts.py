"""Stacks of experts: the weights of all experts of a layer in one tensor, and how one expert lies in it.

A stack is `[experts, out, in]`, or `[experts, in, out]` as in gpt-oss and Llama 4. Which of the two is read off the
shapes wherever they tell: what enters the experts and what leaves them has the width of the model, so the first
weights of an expert (gate and up) have it as inputs and the last one (down) as outputs.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from spectra.errors import FormatError
from spectra.layout import Layout
from spectra.loaders.header import TensorInfo
from spectra.text import show

FIRST = (
    "gate_up_proj", "gate_proj", "up_proj", "gate_and_up_projs", "w1", "w3", "w13_weight", "fc1", "input_linear",
    "ffn_gate_exps", "ffn_up_exps", "ffn_gate_up_exps",
)  # fmt: skip
LAST = ("down_proj", "down_projs", "w2", "w2_weight", "fc2", "output_linear", "ffn_down_exps")
# Architectures whose files hold [experts, in, out]; asked only where shapes do not tell.
TRANSPOSED_MODELS = ("gpt_oss", "openai_privacy_filter", "llama4", "llama4_text", "aria", "aria_text", "qwen3_vl_moe")
_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_WIDTHS = ("hidden_size", "d_model", "n_embd")
_DEEPEST = 3
MOST_EXPERTS = 65_536


@dataclass(frozen=True, slots=True)
class Stack:
    """A stack of experts: how many, the layout of each, and a note where the layout is a guess."""

    count: int
    layout: Layout
    note: str | None


def stack_of(key: str, tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> Stack | None:
    """Return the stack that a tensor is, None for any other tensor."""
    shape = tensors[key].shape
    if len(shape) != 3 or not _named_a_stack(key, shape[0], config):
        return None
    require_stack(key, shape)
    transposed = _transposed(key, tensors, config)
    note = None if transposed is not None else "the layout of its experts is not known: taken as [experts, out, in]"
    return Stack(shape[0], Layout("transposed" if transposed else "linear", shape[1:]), note)


def require_stack(key: str, shape: tuple[int, ...]) -> None:
    """Refuse a stack that claims more experts than there are, or none: each of them becomes a pair."""
    if not 0 < shape[0] <= MOST_EXPERTS or 0 in shape:
        raise FormatError(
            f"'{show(key)}' claims {shape[0]} experts of {list(shape[1:])}: from 1 to {MOST_EXPERTS:,} that have "
            "entries are read. Save or download it again."
        )


def _named_a_stack(key: str, first: int, config: Mapping[str, Any]) -> bool:
    path = key.removesuffix(".weight").split(".")
    if "experts" in path:
        inside = path[path.index("experts") + 1 :]
        return not any(part.isdigit() for part in inside)  # `experts.3.conv` is one expert's own
    return path[-1].endswith("_exps") or ("conv" not in path[-1] and first in _numbers(config, _COUNTS))


def _transposed(key: str, tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> bool | None:
    """Whether the experts of a stack lie `[in, out]`; None where neither shapes nor architecture tell."""
    _, first, second = tensors[key].shape
    name = _last_part(key)
    told = _by_partner(key, tensors)
    if told is None and first != second and name in FIRST + LAST:
        widths = _numbers(config, _WIDTHS)
        inputs_first, inputs_second = first in widths, second in widths
        if inputs_first != inputs_second:
            told = inputs_first == (name in FIRST)
    if told is None and any(kind in TRANSPOSED_MODELS for kind in _model_types(config)):
        told = True
    return told


def _by_partner(key: str, tensors: Mapping[str, TensorInfo]) -> bool | None:
    """Compare a stack with the one of the other end of its experts: they have the model's width in common."""
    name = _last_part(key)
    for other in LAST if name in FIRST else FIRST if name in LAST else ():
        info = tensors.get(_renamed(key, other))
        if info is None or len(info.shape) != 3:
            continue
        one, two = (tensors[key].shape, info.shape) if name in FIRST else (info.shape, tensors[key].shape)
        straight, turned = one[2] == two[1], one[1] == two[2]
        if straight != turned:
            return turned
    return None


def _last_part(key: str) -> str:
    return key.removesuffix(".weight").rpartition(".")[2]


def _renamed(key: str, name: str) -> str:
    bare = key.removesuffix(".weight")
    front = bare.rpartition(".")[0]
    return f"{front}.{name}{key[len(bare) :]}"


def _parts(config: Mapping[str, Any], depth: int = _DEEPEST) -> Iterator[Mapping[str, Any]]:
    """Yield a configuration and those inside it: `text_config` and its like."""
    yield config
    if depth:
        for value in config.values():
            if isinstance(value, Mapping):
                yield from _parts(value, depth - 1)


def _numbers(config: Mapping[str, Any], names: tuple[str, ...]) -> set[int]:
    found = (part.get(name) for part in _parts(config) for name in names)
    return {number for number in found if isinstance(number, int) and not isinstance(number, bool)}


def _model_types(config: Mapping[str, Any]) -> list[Any]:
    return [part.get("model_type") for part in _parts(config)]
