"""Bases whose names or layouts are not what their adapters say, and what is said where that leaves a doubt."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from spectra import diagnose, open_pairs


def adapter(folder, modules, shape=(8, 8), **config):
    folder.mkdir()
    torch.manual_seed(0)
    tensors = {}
    for module in modules:
        tensors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(2, shape[1])
        tensors[f"base_model.model.{module}.lora_B.weight"] = torch.randn(shape[0], 2)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config}))
    return folder


def checkpoint(folder, tensors, config):
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


LLAVA = {"model.language_model.layers.0.q_proj": "language_model.model.layers.0.q_proj.weight",
         "model.vision_tower.blocks.0.qkv": "vision_tower.blocks.0.qkv.weight"}  # fmt: skip
QWEN = {"model.language_model.layers.0.q_proj": "model.layers.0.q_proj.weight",
        "model.visual.blocks.0.qkv": "visual.blocks.0.qkv.weight"}  # fmt: skip


@pytest.mark.parametrize("names", [LLAVA, QWEN], ids=["LLaVA", "Qwen2-VL"])
def test_a_vision_language_model_is_found_under_its_older_names(tmp_path, names):
    base = {key: torch.eye(8) for key in names.values()}
    with open_pairs(base, adapter(tmp_path / "a", names)) as pairs:
        assert sorted(pair.key for pair in pairs) == sorted(names.values())


def test_gpt2_whose_conv1d_a_converter_has_turned_is_not_turned_again(tmp_path):
    weights = {"h.0.attn.c_attn.weight": torch.randn(24, 8), "h.0.attn.c_proj.weight": torch.randn(8, 8)}
    base = checkpoint(tmp_path / "base", weights, {"model_type": "gpt2"})
    with open_pairs(base, adapter(tmp_path / "a", ["h.0.attn.c_proj"])) as pairs:
        (pair,) = pairs
    assert torch.equal(pair.base, weights["h.0.attn.c_proj.weight"])


@pytest.mark.parametrize(("version", "told"), [({}, True), ({"peft_version": "0.21.2"}, False)])
def test_patterns_that_older_versions_read_otherwise_are_told(tmp_path, version, told):
    base = {"model.layers.0.q_proj.weight": torch.eye(8)}
    patterns = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"model.layers.0.q_proj": 64}}
    with open_pairs(base, adapter(tmp_path / "a", ["model.layers.0.q_proj"], **patterns, **version)) as pairs:
        (pair,) = pairs
    assert any("older versions of PEFT" in note for note in pair.notes) is told


def test_lora_on_the_head_of_a_tied_base_says_what_it_shares(tmp_path):
    base = checkpoint(
        tmp_path / "base",
        {"model.embed_tokens.weight": torch.randn(12, 8)},
        {"model_type": "llama", "tie_word_embeddings": True},
    )
    with open_pairs(base, adapter(tmp_path / "a", ["lm_head"], (12, 8))) as pairs:
        (pair,) = pairs
    assert any("'lm_head', which shares this weight" in note for note in pair.notes)


def test_a_trained_head_that_is_left_out_is_told_at_the_top(tmp_path):
    base = checkpoint(
        tmp_path / "base",
        {"model.embed_tokens.weight": torch.randn(12, 8), "model.layers.0.q_proj.weight": torch.eye(8)},
        {"model_type": "llama", "tie_word_embeddings": True},
    )
    folder = adapter(tmp_path / "a", ["model.layers.0.q_proj"], modules_to_save=["lm_head"])
    tensors = {"base_model.model.lm_head.weight": torch.randn(12, 8)}
    save_file({**load_file(folder / "adapter_model.safetensors"), **tensors}, folder / "adapter_model.safetensors")
    with open_pairs(base, folder) as pairs:
        assert any("'lm_head.weight' was trained in full and is left out" in note for note in pairs.notes)


def test_a_start_that_was_taken_out_of_the_base_may_use_twice_the_rank(oracle):
    report = diagnose(oracle / "lora_pissa_raw" / "base", oracle / "lora_pissa_raw" / "adapter")
    assert report.summary["allotted_ranks"] == [8]
    assert {row.rank.allotted for row in report.rows} == {8}
