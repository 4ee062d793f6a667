"""Rows longer and rows turned, by hand, in blocks, and where float32 and differences would lose them."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectra import testing
from spectra.metrics.magnitude import magnitude
from spectra.updates import Dense, LowRank

BASE = testing.decaying(60, 40, seed=1).float()


def test_by_hand():
    """One row twice as long, one turned by a right angle, one zero before."""
    base = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 0.0]])
    update = torch.tensor([[3.0, 4.0], [-1.0, 1.0], [5.0, 0.0]])
    found = magnitude(base, update)
    assert (found.dM, found.dD, found.relative, found.largest) == pytest.approx((2.5, 0.5, 2.5 / 3, 1.0))
    assert found.skipped == 1


def test_a_row_that_is_reversed_has_a_direction_change_of_two():
    assert magnitude(torch.ones(2, 3), -2 * torch.ones(2, 3)).dD == pytest.approx(2)


def test_a_row_that_is_erased_has_no_direction():
    assert magnitude(torch.ones(2, 3), -torch.ones(2, 3)) is None
    assert magnitude(torch.zeros(2, 3), torch.ones(2, 3)) is None
    assert magnitude(torch.zeros(0, 3), torch.zeros(0, 3)) is None


@pytest.mark.parametrize("angle", [1e-1, 1e-4, 1e-7, 1e-10])
def test_small_turns_are_not_lost(angle):
    """`1 - cos` of 1e-10 is 5e-21, which a cosine in float64 does not hold."""
    base = torch.tensor([[1.0, 0.0]])
    update = torch.tensor([[math.cos(angle) - 1, math.sin(angle)]], dtype=torch.float64)
    assert magnitude(base, update).dD == pytest.approx(2 * math.sin(angle / 2) ** 2, rel=1e-6)


@pytest.mark.parametrize("size", [1e-3, 1e-9])
def test_small_growth_is_not_lost(size):
    found = magnitude(BASE, size * BASE.double())
    assert found.relative == pytest.approx(size, rel=1e-6)
    assert found.dD == pytest.approx(0, abs=1e-20)


def test_only_the_length_changes_with_a_gain_and_only_the_direction_with_a_rotation():
    gain = torch.linspace(0.5, 1.5, 60)[:, None]
    grown = magnitude(BASE, (gain - 1) * BASE)
    assert grown.dD == pytest.approx(0, abs=1e-12)
    assert grown.largest == pytest.approx(0.5)
    turned = BASE.double() @ testing.orthogonal(40, 40, seed=2) - BASE.double()
    assert magnitude(BASE, turned).dM == pytest.approx(0, abs=1e-7)
    assert magnitude(BASE, turned).dD > 0.5


def test_factors_blocks_and_a_dense_update_agree(monkeypatch):
    B, A = testing.lora({"w.weight": BASE}, ["w"], rank=4, strength=0.3, seed=3)["w"]
    one = magnitude(BASE, Dense(B @ A))
    monkeypatch.setattr("spectra.metrics.blocks._ELEMENTS", 100)
    other = magnitude(BASE, LowRank(B, A))
    assert (other.dM, other.dD, other.relative, other.largest) == pytest.approx(
        (one.dM, one.dD, one.relative, one.largest), rel=1e-5
    )


@given(factor=st.floats(1e-15, 1e15))
def test_a_scaled_weight_changes_the_length_alone(factor):
    update = testing.noise(60, 40, level=0.3, seed=4)
    one, other = magnitude(BASE.double(), update), magnitude(factor * BASE.double(), factor * update)
    assert other.dM == pytest.approx(factor * one.dM, rel=1e-9)
    assert (other.dD, other.relative, other.largest) == pytest.approx((one.dD, one.relative, one.largest), rel=1e-9)
