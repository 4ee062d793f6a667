"""What GGUF calls the weights of a model, and what the Hub does: names, and the order of rows.

llama.cpp has one set of names for all architectures (`blk.3.attn_q.weight`); the Hub has one an architecture. Of
the architectures below its converter leaves every matrix as it was, but for two things: the Conv1D of GPT-2 is turned
to `[out, in]`, and in Llama and its relatives the rows of q and k are reordered within every head, since its rotary
embedding pairs neighbours: row `2 i + j` of a head in GGUF is row `j d / 2 + i` on the Hub, for heads of d rows,
i < d / 2 and j in (0, 1).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from spectra.errors import FormatError, UnsupportedError
from spectra.layout import Layout, layout_of
from spectra.loaders.gguf_header import whole
from spectra.loaders.header import Header
from spectra.text import listing, show

_NAME = re.compile(r"(?:blk\.(?P<block>\d+)\.)?(?P<part>[^.]+)(?:\.(?P<expert>\d+))?\.(?P<leaf>weight|bias)")


@dataclass(frozen=True, slots=True)
class _Spelling:
    """An architecture on the Hub: where its blocks are, and the Hub's name of each part, by GGUF's.

    interleaved : whether GGUF holds the rows of its q and k in pairs.
    """

    outside: Mapping[str, str]
    inside: Mapping[str, str]
    blocks: str = "model.layers"
    interleaved: bool = False


_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_ATTENTION = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
}
_GATED = {
    **_ATTENTION,
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_GEMMA2 = {
    **_GATED,
    "post_attention_norm": "post_attention_layernorm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
_MIXTRAL = {
    **_GATED,
    "ffn_gate_inp": "block_sparse_moe.gate",
    "ffn_gate_exps": "block_sparse_moe.experts.#.w1",
    "ffn_down_exps": "block_sparse_moe.experts.#.w2",
    "ffn_up_exps": "block_sparse_moe.experts.#.w3",
}
_QWEN_MOE = {
    **_GATED,
    "ffn_gate_inp": "mlp.gate",
    "ffn_gate_exps": "mlp.experts.#.gate_proj",
    "ffn_down_exps": "mlp.experts.#.down_proj",
    "ffn_up_exps": "mlp.experts.#.up_proj",
    "ffn_gate_inp_shexp": "mlp.shared_expert_gate",
    "ffn_gate_shexp": "mlp.shared_expert.gate_proj",
    "ffn_down_shexp": "mlp.shared_expert.down_proj",
    "ffn_up_shexp": "mlp.shared_expert.up_proj",
}
_PHI2 = {**_ATTENTION, "attn_output": "self_attn.dense", "ffn_up": "mlp.fc1", "ffn_down": "mlp.fc2"}
_PHI3 = {**_GATED, "attn_qkv": "self_attn.qkv_proj", "ffn_up": "mlp.gate_up_proj"}
_STARCODER2 = {**_GATED, "ffn_up": "mlp.c_fc", "ffn_down": "mlp.c_proj"}
_GPT2 = {
    "attn_norm": "ln_1",
    "attn_qkv": "attn.c_attn",
    "attn_output": "attn.c_proj",
    "ffn_norm": "ln_2",
    "ffn_up": "mlp.c_fc",
    "ffn_down": "mlp.c_proj",
}
_OUTSIDE_GPT2 = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
}
_LLAMA, _PLAIN = _Spelling(_OUTSIDE, _MIXTRAL, interleaved=True), _Spelling(_OUTSIDE, _GATED)
_GEMMA = _Spelling(_OUTSIDE, _GEMMA2)
# general.architecture -> how the Hub spells it. Another architecture keeps its own names.
_SPELLINGS: Mapping[str, _Spelling] = {
    **dict.fromkeys(("llama", "llama-embed", "mistral3", "smollm3", "granite"), _LLAMA),
    **dict.fromkeys(("qwen2", "qwen2vl", "qwen3", "qwen3vl", "gemma"), _PLAIN),
    **dict.fromkeys(("gemma2", "gemma3"), _GEMMA),
    **dict.fromkeys(("qwen2moe", "qwen3moe"), _Spelling(_OUTSIDE, _QWEN_MOE)),
    "phi2": _Spelling({**_OUTSIDE, "output_norm": "model.final_layernorm"}, _PHI2),
    "phi3": _Spelling(_OUTSIDE, _PHI3),
    "starcoder2": _Spelling(_OUTSIDE, _STARCODER2),
    "gpt2": _Spelling(_OUTSIDE_GPT2, _GPT2, blocks="transformer.h"),
}
_TURNED = ("gpt2",)
_SIZES = {
    "num_hidden_layers": "block_count",
    "hidden_size": "embedding_length",
    "num_attention_heads": "attention.head_count",
    "num_experts": "expert_count",
}


@dataclass(frozen=True, slots=True)
class Naming:
    """How a GGUF model's tensors are called on the Hub and lie there.

    Of any other container, and of a GGUF architecture that is not known, tensors have the names they have.
    """

    architecture: str = ""
    file: str = ""
    told: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_known(self) -> bool:
        return not self.architecture or self.architecture in _SPELLINGS

    def name(self, key: str) -> str:
        """Return the Hub's name of a tensor; `#` in it stands for the number of an expert."""
        spelling, found = _SPELLINGS.get(self.architecture), _NAME.fullmatch(key)
        return (_spelled(found, spelling) if spelling and found else None) or key

    def is_stack(self, key: str) -> bool:
        """Return whether a tensor holds a matrix for every expert."""
        return _part(key).endswith("_exps")

    def is_turned(self, key: str) -> bool:
        """Return whether the Hub has the transpose of a weight."""
        return self.architecture in _TURNED and _part(key) in _GPT2

    def layout(self, key: str, shape: tuple[int, ...]) -> Layout:
        """Return how a weight, which is no stack, lies in the file.

        Raises FormatError where its rows are no whole heads, UnsupportedError where the number of heads is not told.
        """
        spelling = _SPELLINGS.get(self.architecture)
        if spelling is None or not spelling.interleaved or _part(key) not in ("attn_q", "attn_k"):
            return layout_of(shape)
        heads = self._heads(key)
        if shape[0] % (2 * heads):
            raise FormatError(f"{self.file}: '{show(key)}' has {shape[0]} rows, no {heads} heads of an even size.")
        return Layout("linear", shape, heads)

    def _heads(self, key: str) -> int:
        told = self.told.get(f"{self.architecture}.attention.head_count", "")
        if _part(key) == "attn_k":
            told = self.told.get(f"{self.architecture}.attention.head_count_kv", told)
        heads = whole(told)
        if not heads:
            raise UnsupportedError(
                f"{self.file} does not tell one number of attention heads for all blocks ({show(told, 40) or 'none'}), "
                f"so the rows of '{show(key)}' cannot be put in the Hub's order. Give the same model as safetensors."
            )
        return heads


def naming_of(header: Header) -> Naming:
    """Return how the tensors of a model are called on the Hub."""
    if not _is_gguf(header):
        return Naming()
    return Naming(header.metadata.get("general.architecture", "unnamed"), show(header.files[0].name), header.metadata)


def _is_gguf(header: Header) -> bool:
    return header.container.partition(",")[0] == "GGUF"


def require_comparable(base: Naming, tuned: Naming) -> None:
    """Raise UnsupportedError where one side has names that are not known here and the other has others."""
    unknown = next((naming for naming in (base, tuned) if not naming.is_known), None)
    if unknown is not None and base.architecture != tuned.architecture:
        raise UnsupportedError(
            f"{unknown.file} is GGUF of the architecture {show(unknown.architecture)}, whose names and order of rows "
            f"are not known here ({listing(_SPELLINGS, 30)} are). Give the same model as safetensors."
        )


def config_of(header: Header) -> dict[str, Any]:
    """Return what GGUF metadata say of a model in the words of a `config.json`; empty for other containers."""
    if not _is_gguf(header):
        return {}
    told = header.metadata
    architecture = told.get("general.architecture", "")
    sizes = {name: whole(told.get(f"{architecture}.{key}")) for name, key in _SIZES.items()}
    known = {name: size for name, size in sizes.items() if size is not None}
    return {**known, "tie_word_embeddings": "output.weight" not in header.tensors}


def _part(key: str) -> str:
    found = _NAME.fullmatch(key)
    return found["part"] if found else ""


def _spelled(found: re.Match[str], spelling: _Spelling) -> str | None:
    if found["block"] is None:
        name = spelling.outside.get(found["part"])
        return f"{name}.{found['leaf']}" if name and found["expert"] is None else None
    one = found["expert"] is not None  # before 2024 every expert was a tensor of its own: blk.0.ffn_up.3.weight
    name = spelling.inside.get(found["part"] + "_exps" * one)
    if name is None:
        return None
    return f"{spelling.blocks}.{found['block']}.{name.replace('#', found['expert'] or '#')}.{found['leaf']}"
