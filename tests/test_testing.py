"""The makers for tests and notebooks give what they promise, and only from their seed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectra import testing
from spectra.errors import UsageError


@given(m=st.integers(1, 30), data=st.data(), seed=st.integers(0, 10**6))
def test_orthogonal_columns_are_orthonormal(m, data, seed):
    Q = testing.orthogonal(m, data.draw(st.integers(1, m)), seed=seed)
    torch.testing.assert_close(Q.T @ Q, torch.eye(Q.shape[1], dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_matrix_has_the_spectrum_it_was_asked_for():
    found = torch.linalg.svdvals(testing.with_spectrum([1.0, 5.0, 3.0], 20, 6, seed=1))
    torch.testing.assert_close(found, torch.tensor([5.0, 3.0, 1.0, 0, 0, 0], dtype=torch.float64), rtol=0, atol=1e-12)


def test_named_matrices_have_their_spectra():
    values = torch.linalg.svdvals(testing.decaying(9, 12, seed=2, exponent=1.0))
    torch.testing.assert_close(values, 1 / torch.arange(1.0, 10.0).double(), rtol=1e-12, atol=0)
    clustered = torch.linalg.svdvals(testing.tied(20, 20, 4, seed=2))
    assert clustered[:4].tolist() == pytest.approx([1.0] * 4)
    assert clustered[4] == pytest.approx(0.5)
    assert torch.linalg.matrix_norm(testing.noise(9, 5, level=0.3, seed=1), 2).item() == pytest.approx(0.3)


@pytest.mark.parametrize("shape", [(64, 64), (96, 40), (40, 96)], ids=str)
def test_a_plant_leaves_the_larger_half_of_the_base_as_it_is(shape):
    base = testing.decaying(*shape, seed=1)
    update = testing.plant_intruders(base, 2, strength=3.0, seed=4)
    U, S, Vh = torch.linalg.svd(base, full_matrices=False)
    head = min(shape) // 2
    W = base + update.dense()
    torch.testing.assert_close(W @ Vh[:head].T, U[:, :head] * S[:head], rtol=0, atol=1e-12)
    torch.testing.assert_close(U[:, :head].T @ W, S[:head, None] * Vh[:head], rtol=0, atol=1e-12)
    planted = torch.linalg.svd(W, full_matrices=False)[0][:, :2]
    assert (U.T @ planted).abs().max() < 0.45
    assert torch.linalg.svdvals(update.dense())[:3].tolist() == pytest.approx([3.15, 3.0, 0.0], abs=1e-12)


def test_too_many_plants_for_a_base_are_refused():
    with pytest.raises(UsageError, match="6 plants need a base of at least 72 singular values, not 64"):
        testing.plant_intruders(testing.decaying(64, 64, seed=1), 6, seed=1)


def test_a_rotation_keeps_the_spectrum_and_the_space():
    base = testing.decaying(50, 40, seed=3)
    W = base + testing.rotate_top(base, span=8, seed=5).dense()
    torch.testing.assert_close(torch.linalg.svdvals(W), torch.linalg.svdvals(base), rtol=1e-12, atol=0)
    inside = torch.linalg.svd(base)[0][:, :8].T @ torch.linalg.svd(W)[0][:, :8]
    torch.testing.assert_close(inside.square().sum(0), torch.ones(8, dtype=torch.float64), rtol=1e-10, atol=0)


def test_a_round_trip_is_a_files():
    assert testing.rounded(torch.tensor([1.001]), torch.bfloat16).tolist() == [1.0]
    assert testing.rounded(torch.tensor([1.0]), torch.bfloat16).dtype == torch.float32


def test_every_maker_obeys_its_seed_and_leaves_the_global_one_alone():
    torch.manual_seed(0)
    untouched = torch.rand(1)
    base = testing.decaying(48, 48, seed=1)
    makers = {
        "decaying": lambda seed: testing.decaying(9, 9, seed=seed),
        "tied": lambda seed: testing.tied(9, 9, 3, seed=seed),
        "noise": lambda seed: testing.noise(9, 9, level=1.0, seed=seed),
        "plant": lambda seed: testing.plant_intruders(base, seed=seed).dense(),
        "rotate": lambda seed: testing.rotate_top(base, seed=seed).dense(),
        "llama": lambda seed: testing.llama(seed=seed)["lm_head.weight"],
        "lora": lambda seed: testing.lora({"w.weight": base}, ["w"], seed=seed)["w"][0],
    }
    torch.manual_seed(0)
    for name, make in makers.items():
        assert torch.equal(make(3), make(3)), name
        assert not torch.equal(make(3), make(4)), name
    assert torch.equal(torch.rand(1), untouched)


def test_lora_factors_have_the_strength_asked_for():
    tensors = testing.llama(seed=1)
    factors = testing.lora(tensors, ("q_proj", "up_proj"), rank=3, strength=0.25, seed=2)
    assert sorted({module.rpartition(".")[2] for module in factors}) == ["q_proj", "up_proj"]
    for module, (B, A) in factors.items():
        assert (B.shape[1], A.shape[0]) == (3, 3)
        assert (B @ A).norm() / tensors[f"{module}.weight"].norm() == pytest.approx(0.25)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("container", ["safetensors", "sharded", "bin"])
def test_transformers_and_peft_read_what_is_saved(container, tmp_path):
    """The pico files are real ones: the libraries they imitate load every tensor of them."""
    transformers, peft = pytest.importorskip("transformers"), pytest.importorskip("peft")
    tensors = testing.llama(seed=1)
    sizes = {
        "vocab_size": 48, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
    }  # fmt: skip
    folder = testing.save_checkpoint(
        tmp_path / "base", tensors, container=container, config={**testing.LLAMA_CONFIG, **sizes}
    )
    model, loaded = transformers.LlamaForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not loaded["missing_keys"]
    assert not loaded["unexpected_keys"]
    assert torch.equal(model.state_dict()["lm_head.weight"], tensors["lm_head.weight"])
    factors = testing.lora(tensors, seed=2)
    adapter = testing.save_lora(tmp_path / "adapter", factors, alpha=8)
    tuned = peft.PeftModel.from_pretrained(model, adapter).merge_and_unload()
    module = "model.layers.1.self_attn.v_proj"
    B, A = factors[module]
    merged = tuned.state_dict()[f"{module}.weight"]
    torch.testing.assert_close(merged, tensors[f"{module}.weight"] + 2 * B @ A)
