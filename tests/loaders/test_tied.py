"""Adapted weights that are stored once and used more than once."""

import json

import torch
from safetensors.torch import save_file

from spectra import testing
from spectra.loaders.pairing import open_pairs
from spectra.loaders.plan import Tied

TENSORS = testing.llama(seed=5)
EMBEDDING = "model.embed_tokens.weight"
UNTIED = {key: W for key, W in TENSORS.items() if key != "lm_head.weight"}


def tied(tmp_path, tensors, targets, config=testing.LLAMA_CONFIG, container="safetensors"):
    base = testing.save_checkpoint(tmp_path / "base", tensors, config=config, container=container)
    factors = testing.lora(TENSORS, targets, rank=2, seed=1)
    return open_pairs(base, testing.save_lora(tmp_path / "adapter", factors, alpha=2)).info.tied


def test_no_weight_is_tied_where_each_is_stored(tmp_path):
    assert tied(tmp_path, TENSORS, ("embed_tokens", "lm_head", "q_proj")) == ()


def test_a_head_that_is_declared_tied_uses_the_embedding_too(tmp_path):
    config = {**testing.LLAMA_CONFIG, "tie_word_embeddings": True}
    found = tied(tmp_path, UNTIED, ("embed_tokens",), config)
    assert found == (Tied(EMBEDDING, ("model.embed_tokens",), ("lm_head",)),)


def test_a_language_model_inside_another_declares_it_for_itself(tmp_path):
    config = {"model_type": "gemma3", "text_config": {"tie_word_embeddings": True}}
    assert len(tied(tmp_path, UNTIED, ("embed_tokens",), config)) == 1


def test_a_head_that_nobody_declares_is_not_assumed(tmp_path):
    """An encoder has an embedding and no head at all."""
    assert tied(tmp_path, UNTIED, ("embed_tokens",), {"model_type": "bert"}) == ()


def test_a_head_that_is_adapted_and_not_stored_is_the_embedding(tmp_path):
    found = tied(tmp_path, UNTIED, ("lm_head",), {"model_type": "llama"})
    assert found == (Tied(EMBEDDING, ("lm_head",), ("model.embed_tokens",)),)


def test_both_names_of_one_storage_are_told(tmp_path):
    shared = {**TENSORS, "lm_head.weight": TENSORS[EMBEDDING]}
    (found,) = tied(tmp_path, shared, ("embed_tokens", "lm_head"), container="bin")
    assert (found.key, set(found.adapted), found.others) == (EMBEDDING, {"model.embed_tokens", "lm_head"}, ())


def test_experts_of_one_stack_are_not_one_weight(tmp_path):
    base = {**TENSORS, "model.layers.0.mlp.experts.down_proj": torch.randn(2, 64, 32)}
    folder = testing.save_checkpoint(tmp_path / "base", base, config={"model_type": "gpt_oss"})
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    name = "base_model.model.model.layers.0.mlp.experts"
    factors = {f"{name}.lora_A.weight": torch.randn(4, 64), f"{name}.lora_B.weight": torch.randn(32, 4)}
    save_file(factors, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_parameters": ["mlp.experts.down_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    pairs = open_pairs(folder, adapter)
    assert (len(pairs), pairs.info.tied) == (2, ())
