"""How large an update is beside its base."""

import math

import pytest
import torch

from spectra import testing
from spectra.metrics.norms import norms
from spectra.updates import LowRank


def of(base, update):
    return norms(base, update, torch.linalg.svdvals(base), torch.linalg.svdvals(update))


def test_by_hand():
    found = of(torch.tensor([[3.0, 0.0], [0.0, 4.0]]), torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    assert (found.base, found.update, found.ratio) == pytest.approx((5.0, 1.0, 0.2))
    assert (found.base_spectral, found.update_spectral) == pytest.approx((4.0, 1.0))
    assert found.cosine == pytest.approx((9 + 20) / (5 * 34**0.5))


def test_a_zero_update_has_ratio_zero_and_cosine_one():
    found = of(torch.ones(3, 2), torch.zeros(3, 2))
    assert (found.update, found.ratio, found.update_spectral) == (0, 0, 0)
    assert found.cosine == pytest.approx(1.0)


def test_an_update_of_a_zero_base_is_infinitely_large_beside_it():
    found = of(torch.zeros(3, 2), torch.ones(3, 2))
    assert found.ratio == math.inf
    assert found.cosine == 0.0
    assert of(torch.zeros(3, 2), torch.zeros(3, 2)).ratio == 0.0


def test_an_update_that_erases_the_weight_has_no_direction_left():
    base = torch.ones(3, 2)
    assert of(base, -base).cosine == 0.0
    assert of(base, -2 * base).cosine == pytest.approx(-1.0)


def test_spectral_norms_bound_frobenius_norms():
    base, update = testing.decaying(20, 30, seed=1), testing.noise(20, 30, level=0.5, seed=2)
    found = of(base, update)
    assert found.update_spectral == pytest.approx(0.5)
    assert found.update_spectral <= found.update <= found.update_spectral * 20**0.5


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e30, 1e37])
def test_squares_beyond_float32_are_no_trap(scale):
    base = torch.full((10, 10), scale)
    found = of(base, base / 4)
    assert found.base == pytest.approx(10 * scale, rel=1e-6)
    assert found.ratio == pytest.approx(0.25, rel=1e-6)
    assert found.cosine == pytest.approx(1.0)


def test_factors_have_the_norms_of_their_product():
    base = testing.decaying(200, 150, seed=3).float()
    B, A = testing.lora({"w.weight": base}, ["w"], rank=4, strength=0.5, seed=1)["w"]
    one, other = (norms(base, update, base[0], base[0]) for update in (B @ A, LowRank(B, A)))
    for name in ("base", "update", "ratio", "cosine"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-6)
    assert one.update == pytest.approx(0.5 * one.base, rel=1e-5)


def test_a_base_without_computed_values_has_no_spectral_norm():
    found = norms(torch.zeros(0, 3), torch.zeros(0, 3), torch.zeros(0), torch.zeros(0))
    assert (found.base_spectral, found.update_spectral, found.ratio) == (None, 0, 0)


def test_the_largest_entries_are_those_of_base_and_tuned():
    base = testing.decaying(300, 700, seed=4)  # of several blocks of rows
    base[299, 0], update = -7.0, torch.zeros(300, 700)
    update[299, 0], update[0, 699] = 7.0, 3.0 - float(base[0, 699])
    found = of(base, update)
    assert (found.base_largest, found.tuned_largest) == (7.0, pytest.approx(3.0))


def test_counting_the_largest_leaves_the_base_as_it_was():
    base = testing.decaying(30, 20, seed=5)
    before = base.clone()
    of(base, testing.noise(30, 20, level=0.5, seed=2).double())
    assert torch.equal(base, before)
