"""SP109: one stored weight used twice, and one update in two places."""

import json

import pytest
import torch
from safetensors.torch import save_file

from spectra import testing
from spectra.loaders.base import open_base
from spectra.loaders.pairing import open_pairs

EMBEDDING, HEAD = "model.embed_tokens", "lm_head"
TIED = {**testing.LLAMA_CONFIG, "tie_word_embeddings": True}


@pytest.fixture
def tied(tmp_path, tensors):
    """The model with its head tied to the embedding, and so not stored."""
    kept = {key: W for key, W in tensors.items() if key != "lm_head.weight"}
    return testing.save_checkpoint(tmp_path / "tied", kept, config=TIED)


@pytest.mark.parametrize(
    ("targets", "others"), [((EMBEDDING,), [HEAD]), ((HEAD,), [EMBEDDING]), ((EMBEDDING, HEAD), [])]
)
def test_an_adapter_on_a_tied_weight_is_a_warning(targets, others, tied, lora, raised):
    (found,) = raised("SP109", tied, lora(targets=(*targets, "q_proj")))
    assert (found.severity, found.keys) == ("warning", ("model.embed_tokens.weight",))
    assert (found.numbers["tied"], found.numbers["others"]) == (1, others)
    assert set(found.numbers["adapted"]) == set(targets)


def test_a_weight_that_shares_its_storage_in_a_pickle_is_tied(tmp_path, tensors, lora, raised):
    shared = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}
    base = testing.save_checkpoint(tmp_path / "shared", shared, container="bin")
    (found,) = raised("SP109", base, lora(targets=(HEAD,)))
    assert (found.numbers["adapted"], found.numbers["others"]) == ([HEAD], [EMBEDDING])
    (found,) = raised("SP109", base, lora(targets=(EMBEDDING,)))
    assert (found.numbers["adapted"], found.numbers["others"]) == ([EMBEDDING], [HEAD])


def test_a_head_of_its_own_is_not_tied(base, lora, raised):
    assert raised("SP109", base, lora(targets=(EMBEDDING, HEAD))) == []


def test_a_tied_weight_that_is_not_adapted_is_no_matter(tied, lora, raised):
    assert raised("SP109", tied, lora()) == []


def test_a_tied_weight_that_was_left_out_is_no_matter(tied, lora, raised):
    assert raised("SP109", tied, lora(targets=(EMBEDDING, "q_proj")), include=["q_proj"]) == []


def test_retrained_tokens_are_put_on_every_module_by_peft_itself(tmp_path, tied, raised):
    folder = tmp_path / "tokens"
    folder.mkdir()
    rows = {f"base_model.model.{EMBEDDING}.token_adapter.trainable_tokens_delta": torch.randn(2, 128)}
    save_file(rows, folder / "adapter_model.safetensors")
    config = {"peft_type": "TRAINABLE_TOKENS", "token_indices": [3, 7], "target_modules": ["embed_tokens"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert len(open_pairs(open_base(tied), folder)) == 1
    assert raised("SP109", tied, folder) == []


def test_one_update_in_two_places_is_a_warning(base, lora, raised):
    def copied(factors):
        first = factors["model.layers.0.self_attn.q_proj"]
        return {**factors, "model.layers.3.self_attn.q_proj": tuple(factor.clone() for factor in first)}

    (found,) = raised("SP109", base, lora(copied))
    assert (found.severity, found.numbers) == ("warning", {"groups": 1, "matrices": 2})
    assert found.keys == ("model.layers.0.self_attn.q_proj.weight", "model.layers.3.self_attn.q_proj.weight")
    assert "bit for bit" in found.message


def test_a_tied_weight_that_was_saved_twice_is_a_remark(tmp_path, tensors, full, raised):
    def twice(weights):
        return {**weights, "lm_head.weight": weights["model.embed_tokens.weight"].clone()}

    base = testing.save_checkpoint(tmp_path / "twice", twice(tensors))
    (found,) = raised("SP109", base, full(twice))
    assert (found.severity, set(found.keys)) == ("info", {"model.embed_tokens.weight", "lm_head.weight"})


def test_updates_of_their_own_are_not_alike(base, lora, full, raised):
    assert raised("SP109", base, lora()) == []
    assert raised("SP109", base, full()) == []
