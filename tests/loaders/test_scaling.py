"""What a pair says of its scaling: the one number that LoRA multiplies its factors by, None wherever it is not one."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from spectra import testing
from spectra.loaders.pairing import open_pairs

TENSORS = testing.llama(seed=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return testing.save_checkpoint(tmp_path_factory.mktemp("base"), TENSORS)


def scalings(base, tuned):
    with open_pairs(base, tuned) as pairs:
        return {pair.key: pair.scaling for pair in pairs}


def test_it_is_alpha_over_the_rank_of_the_module(base, tmp_path):
    factors = testing.lora(TENSORS, rank=4, seed=2)
    adapter = testing.save_lora(tmp_path, factors, alpha=6, alpha_pattern={"layers.1.self_attn.v_proj": 12})
    found = scalings(base, adapter)
    assert found.pop("model.layers.1.self_attn.v_proj.weight") == 3
    assert set(found.values()) == {1.5}


def test_of_rslora_it_is_alpha_over_the_root_of_the_rank(base, tmp_path):
    adapter = testing.save_lora(tmp_path, testing.lora(TENSORS, rank=3, seed=2), alpha=6, use_rslora=True)
    assert set(scalings(base, adapter).values()) == {6 / math.sqrt(3)}


def test_it_takes_the_update_back_to_the_factors_of_the_file(base, tmp_path):
    factors = testing.lora(TENSORS, ["q_proj"], rank=4, seed=2)
    with open_pairs(base, testing.save_lora(tmp_path, factors, alpha=10)) as pairs:
        for pair in pairs:
            B, A = factors[pair.key.removesuffix(".weight")]
            torch.testing.assert_close(pair.update.factors[0] / pair.scaling, B)
            torch.testing.assert_close(pair.update.factors[1], A)


def test_dora_has_that_of_its_inner_update(base, tmp_path):
    factors = testing.lora(TENSORS, ["q_proj"], rank=4, seed=2)
    adapter = testing.save_lora(tmp_path, factors, alpha=8, use_dora=True)
    file = adapter / "adapter_model.safetensors"
    magnitudes = {
        f"base_model.model.{module}.lora_magnitude_vector": TENSORS[f"{module}.weight"].norm(dim=1)
        for module in factors
    }
    save_file(load_file(file) | magnitudes, file)
    assert set(scalings(base, adapter).values()) == {2}


def test_trained_tokens_beside_lora_have_none(base, tmp_path):
    factors = testing.lora(TENSORS, ["q_proj"], rank=4, seed=2)
    options = {"trainable_token_indices": {"embed_tokens": [1, 5]}}
    adapter = testing.save_lora(tmp_path, factors, alpha=8, **options)
    file = adapter / "adapter_model.safetensors"
    rows = {"base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": torch.ones(2, 32)}
    save_file(load_file(file) | rows, file)
    found = scalings(base, adapter)
    assert found.pop("model.embed_tokens.weight") is None
    assert set(found.values()) == {2}


def test_another_method_and_a_full_fine_tune_have_none(base, tmp_path):
    moved = {key: tensor + 0.01 if tensor.ndim == 2 else tensor for key, tensor in TENSORS.items()}
    assert set(scalings(base, testing.save_checkpoint(tmp_path / "full", moved)).values()) == {None}
    ia3 = tmp_path / "ia3"
    ia3.mkdir()
    document = {"peft_type": "IA3", "target_modules": ["k_proj"], "feedforward_modules": []}
    (ia3 / "adapter_config.json").write_text(json.dumps(document))
    name = "base_model.model.model.layers.0.self_attn.k_proj.ia3_l"
    save_file({name: torch.full((32, 1), 1.5)}, ia3 / "adapter_model.safetensors")
    assert set(scalings(base, ia3).values()) == {None}


def test_a_tied_weight_adapted_twice_has_none(tmp_path):
    tied = {key: tensor for key, tensor in TENSORS.items() if key != "lm_head.weight"}
    config = testing.LLAMA_CONFIG | {"tie_word_embeddings": True}
    base = testing.save_checkpoint(tmp_path / "base", tied, config=config)
    B, A = testing.lora(TENSORS, ["lm_head"], rank=4, seed=2)["lm_head"]
    adapter = testing.save_lora(tmp_path / "adapter", {"lm_head": (B, A)}, alpha=8)
    file = adapter / "adapter_model.safetensors"
    embedding = {"lora_embedding_A": B.T.contiguous(), "lora_embedding_B": A.T.contiguous()}
    before = "base_model.model.model.embed_tokens."
    save_file(load_file(file) | {before + name: tensor for name, tensor in embedding.items()}, file)
    assert scalings(base, adapter) == {"model.embed_tokens.weight": None}
