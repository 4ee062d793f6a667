"""SP307: an update that is larger than the weight it updates."""

import pytest
import torch

from spectra import testing

KEY = "model.layers.2.self_attn.q_proj.weight"


def replaced(W, keys=(KEY,)):
    """Write these matrices anew: W is given the one that was tuned."""
    return lambda tuned: {key: W(weight) if key in keys else weight for key, weight in tuned.items()}


def anew(size=1.0):
    def drawn(weight):
        W = testing.noise(*weight.shape, level=1.0, seed=99).float()
        return W * (size * weight.norm() / W.norm())

    return drawn


@pytest.mark.parametrize(("size", "ratio"), [(1.0, 2**0.5), (0.3, 1.09**0.5), (4.0, 17**0.5)])
def test_a_layer_that_was_begun_anew_is_named_with_the_intruders_that_are_its(size, ratio, base, full, raised):
    """Its weight is orthogonal to the base's, whatever its size: the ratio is above 1."""
    (found,) = raised("SP307", base, full(replaced(anew(size))))
    assert (found.severity, found.keys) == ("info", (KEY,))
    assert found.numbers["largest_ratio"] == pytest.approx(ratio, rel=0.03)
    assert abs(found.numbers["cosine"]) < 0.03
    assert (found.numbers["rows"], found.numbers["matrices"]) == (1, 30)
    assert found.numbers["intruders"] == found.numbers["all_intruders"] == 10
    assert f"1 of 30 matrices: {KEY}, {ratio:.2f}"[:-1] in found.message
    assert "10 of the 10 intruders counted are theirs" in found.message


@pytest.mark.parametrize(("by", "says"), [(0.98, 0), (1.02, 1)])
def test_the_limit_is_the_size_of_the_weight(by, says, base, tensors, full, raised):
    def moved(weight):
        dW = testing.noise(*weight.shape, level=1.0, seed=98).float()
        return tensors[KEY] + dW * (by * tensors[KEY].norm() / dW.norm())

    assert len(raised("SP307", base, full(replaced(moved)))) == says


def test_several_are_named_from_the_largest_on(base, tensors, full, raised):
    other = KEY.replace("q_proj", "v_proj")
    model = full(lambda tuned: {**tuned, KEY: anew(1.0)(tuned[KEY]), other: anew(3.0)(tuned[other])})
    (found,) = raised("SP307", base, model)
    assert found.keys == (other, KEY)
    assert f"2 of 30 matrices: {other}, {KEY}, at most 3.2" in found.message


def test_a_weight_that_was_scaled_up_is_one_without_intruders(base, full, raised):
    (found,) = raised("SP307", base, full(replaced(lambda weight: 3 * weight)))
    assert found.numbers["cosine"] > 0.98
    assert found.numbers["intruders"] == 0
    assert "theirs" not in found.message


def test_where_most_matrices_are_far_it_is_the_base_that_is_doubted(base, tensors, full, raised):
    matrices = [key for key, tensor in tensors.items() if tensor.ndim > 1]
    wrong = full(replaced(anew(), matrices))
    assert raised("SP307", base, wrong) == []
    assert len(raised("SP103", base, wrong)) == 1


def test_an_adapter_and_a_plain_fine_tune_say_nothing(base, lora, full, raised):
    assert raised("SP307", base, full()) == []
    assert raised("SP307", base, lora(lambda factors: {name: (B * 60, A) for name, (B, A) in factors.items()})) == []


def test_nothing_at_all_says_nothing(base, raised):
    assert raised("SP307", base, base) == []


def test_a_weight_of_zero_is_none(base, tensors, full, raised, tmp_path):
    """It has no norm to be larger than, and no base to be compared with."""
    empty = testing.save_checkpoint(tmp_path / "empty", {**tensors, KEY: torch.zeros_like(tensors[KEY])})
    assert raised("SP307", empty, full()) == []
