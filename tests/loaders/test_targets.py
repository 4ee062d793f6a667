"""Which base weights an adapter's configuration puts it on, told from what the file holds."""

import pytest
import torch

from spectra import testing
from spectra.loaders.base import open_base
from spectra.loaders.pairing import open_pairs

TENSORS = testing.llama(seed=5)
EXPERTS = {**TENSORS, "model.layers.0.mlp.experts.down_proj": torch.randn(4, 64, 32)}


@pytest.fixture
def pairs(tmp_path):
    def read(keep=lambda module: True, **settings):
        base = testing.save_checkpoint(tmp_path / "base", TENSORS)
        factors = testing.lora(TENSORS, rank=2, seed=1)
        kept = {module: pair for module, pair in factors.items() if keep(module)}
        return open_pairs(base, testing.save_lora(tmp_path / "adapter", kept, alpha=2, **settings))

    return read


def q_and_v(*blocks):
    return {f"model.layers.{block}.self_attn.{name}_proj.weight" for block in blocks for name in "qv"}


def test_what_is_targeted_is_told_by_the_configuration_and_not_by_the_file(pairs):
    found = pairs(keep=lambda module: "layers.0." in module)
    assert found.targeted == q_and_v(0, 1)
    assert set(found.changed) == q_and_v(0)


def test_changed_are_the_weights_left_out_by_the_caller_too(tmp_path):
    base = testing.save_checkpoint(tmp_path / "base", TENSORS)
    factors = testing.lora(TENSORS, rank=2, seed=1)
    found = open_pairs(base, testing.save_lora(tmp_path / "adapter", factors, alpha=2), include=["layers.1."])
    assert (set(found.keys), set(found.changed)) == (q_and_v(1), q_and_v(0, 1))


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": None},
        {"target_modules": []},
        {"target_modules": ["layers.0.self_attn.q_proj", "somewhere.else"]},  # not the names of what is adapted
        {"layers_pattern": "layers"},
        {"target_modules": "(a+)+$"},
        {"target_modules": "("},
    ],
)
def test_where_the_configuration_does_not_tell_nothing_is_claimed(settings, pairs):
    found = pairs(**settings)
    assert found.targeted is None
    assert len(found) == 4


def test_parameters_are_targeted_by_their_own_list(tmp_path):
    base = testing.save_checkpoint(tmp_path / "base", EXPERTS, config={"model_type": "gpt_oss"})
    factors = {"model.layers.0.mlp.experts": (torch.randn(32, 8), torch.randn(8, 64))}  # rank 2 an expert
    own = {"r": 2, "target_modules": [], "target_parameters": ["mlp.experts.down_proj"]}
    found = open_pairs(base, testing.save_lora(tmp_path / "adapter", factors, alpha=2, **own))
    assert found.targeted == {"model.layers.0.mlp.experts.down_proj"} == set(found.changed)


def test_a_full_checkpoint_is_whole_and_has_no_targets(tmp_path, pairs):
    base = testing.save_checkpoint(tmp_path / "one", TENSORS)
    full = open_pairs(base, testing.save_checkpoint(tmp_path / "other", {key: W + 1 for key, W in TENSORS.items()}))
    assert (full.targeted, full.info.whole) == (None, True)
    assert not pairs().info.whole


@pytest.mark.parametrize(
    ("config", "blocks"),
    [
        ({}, None),
        ({"num_hidden_layers": 3}, 3),
        ({"n_layer": 5}, 5),
        ({"text_config": {"num_hidden_layers": 7}}, 7),
        ({"num_hidden_layers": "3"}, None),
        ({"text_config": [1]}, None),
    ],
)
def test_the_number_of_blocks_is_that_of_the_configuration(tmp_path, config, blocks):
    base = open_base(testing.save_checkpoint(tmp_path / "base", TENSORS, config={"model_type": "llama", **config}))
    assert base.blocks == blocks
    assert base.packed is None


def test_rank_stabilised_and_the_start_are_told(pairs):
    info = pairs(use_rslora=True, init_lora_weights="pissa").info
    assert (info.rank_stabilised, info.start, info.as_stored) == (True, "PiSSA", False)
