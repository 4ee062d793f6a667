"""SP106: weights of a size that no trained weight has."""

import pytest
import torch

from spectra import testing

Q = "model.layers.1.self_attn.q_proj.weight"


def saved(tmp_path, tensors):
    return testing.save_checkpoint(tmp_path / "changed", tensors)


def test_one_huge_entry_is_a_warning_on_either_side(tmp_path, tensors, base, lora, full, raised):
    def spoilt(weights):
        W = weights[Q].clone()
        W[3, 5] = -5e4
        return {**weights, Q: W}

    for pair in ((saved(tmp_path, spoilt(tensors)), lora()), (base, full(spoilt))):
        found = raised("SP106", *pair)[0]
        assert (found.severity, found.keys) == ("warning", (Q,))
        assert found.numbers["largest"] == pytest.approx(5e4, rel=1e-3)


def test_float16_under_a_header_that_says_bfloat16(tmp_path, tensors, lora, raised):
    """The same bits: 0.1 in float16 reads as 3e-11."""
    misread = {key: W.to(torch.float16).view(torch.bfloat16) if W.ndim > 1 else W for key, W in tensors.items()}
    (found,) = raised("SP106", saved(tmp_path, misread), lora(lambda factors: factors, strength=1e-9))
    assert found.severity == "warning"
    assert found.message.startswith("8 matrices of 8 have no entry of the base above 1e-06")


def test_one_matrix_that_collapsed_is_a_remark(tmp_path, tensors, lora, raised):
    (found,) = raised("SP106", saved(tmp_path, {**tensors, Q: tensors[Q] * 1e-7}), lora(strength=1e-8))
    assert (found.severity, found.keys) == ("info", (Q,))


def test_a_fine_tune_of_another_scale_than_its_base(base, full, raised):
    def scaled(by):
        return lambda tuned: {key: W * by if W.ndim > 1 else W for key, W in tuned.items()}

    for by in (1e3, 1e-3):
        (found,) = raised("SP106", base, full(scaled(by)))
        assert found.severity == "warning"
        assert found.numbers["ratio"] == pytest.approx(by, rel=0.5)
        assert "a hundred times off" in found.message
    assert raised("SP106", base, full(scaled(30))) == []


def test_a_weight_that_training_erased_is_apart_from_its_base(base, full, raised):
    (found,) = raised("SP106", base, full(lambda tuned: {**tuned, Q: torch.zeros_like(tuned[Q])}))
    assert (found.severity, found.keys, found.numbers["ratio"]) == ("info", (Q,), 0.0)


def test_ordinary_weights_are_plausible(base, lora, full, raised):
    assert raised("SP106", base, lora()) == []
    assert raised("SP106", base, full()) == []


def test_a_strong_adapter_is_not_of_another_scale(base, lora, raised):
    """Its size is SP103's to judge."""
    assert raised("SP106", base, lora(strength=300.0)) == []
