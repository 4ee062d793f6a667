"""Where a weight sits, read off names as the world writes them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectra.metrics.place import Place, place

NAMES = {
    # Llama and its kin
    "model.layers.3.self_attn.q_proj.weight": Place("model.layers", 3, "self_attn.q_proj"),
    "model.layers.31.mlp.down_proj.weight": Place("model.layers", 31, "mlp.down_proj"),
    "model.embed_tokens.weight": Place("", None, "model.embed_tokens"),
    "lm_head.weight": Place("", None, "lm_head"),
    "model.layers.0.block_sparse_moe.experts.7.w1.weight": Place("model.layers", 0, "block_sparse_moe.experts.7.w1"),
    # GPT-2
    "transformer.h.0.attn.c_attn.weight": Place("transformer.h", 0, "attn.c_attn"),
    "h.11.mlp.c_fc.weight": Place("h", 11, "mlp.c_fc"),
    "wte.weight": Place("", None, "wte"),
    # BERT
    "bert.encoder.layer.5.attention.self.query.weight": Place("bert.encoder.layer", 5, "attention.self.query"),
    "encoder.layer.5.attention.output.dense.weight": Place("encoder.layer", 5, "attention.output.dense"),
    "bert.embeddings.word_embeddings.weight": Place("", None, "embeddings.word_embeddings"),
    "bert.pooler.dense.weight": Place("", None, "pooler.dense"),
    # T5 counts its sublayers inside a block
    "encoder.block.2.layer.0.SelfAttention.q.weight": Place("encoder.block", 2, "layer.0.SelfAttention.q"),
    "decoder.block.2.layer.1.EncDecAttention.o.weight": Place("decoder.block", 2, "layer.1.EncDecAttention.o"),
    "shared.weight": Place("", None, "shared"),
    # diffusion
    "unet.down_blocks.1.attentions.0.proj_in.weight": Place("unet.down_blocks", 1, "attentions.0.proj_in"),
    # bare parameters and stranger things
    "model.layers.4.mlp.experts.gate_up_proj": Place("model.layers", 4, "mlp.experts.gate_up_proj"),
    "0.weight": Place("", None, "0"),
    "layers.0.weight": Place("", None, "layers.0"),
    "0.layers.1.attn.weight": Place("0.layers", 1, "attn"),
    "w": Place("", None, "w"),
    "": Place("", None, ""),
    ".weight": Place("", None, ""),
    "layers.12345678.attn.weight": Place("", None, "12345678.attn"),
    "a..3.b.weight": Place("a.", 3, "b"),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_gives_stack_block_and_module(name):
    assert place(name) == NAMES[name]


@given(name=st.text(max_size=60))
def test_any_name_has_a_place(name):
    found = place(name)
    assert found.block is None or found.block >= 0


@given(stack=st.from_regex(r"[a-z]{1,5}(\.[a-z]{1,5}){0,2}", fullmatch=True), block=st.integers(0, 999_999))
def test_the_parts_of_a_name_come_back(stack, block):
    assert place(f"{stack}.{block}.attn.q.weight") == Place(stack, block, "attn.q")


def test_a_very_long_name_takes_no_long_time():
    """A crafted file may hold names of a megabyte; no pattern may backtrack over them."""
    assert place("a" * 10**6 + ".b" * 10**5).block is None
