"""A planted power law is recovered within its error; spectra without one are rejected, or their exponent says so."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectra.metrics.tails import FEWEST, tail, tails


def values(squares):
    return torch.from_numpy(np.sort(squares)[::-1].copy()).sqrt()


def fitted(squares):
    return tail(values(squares), (len(squares), len(squares)))


def pareto(alpha, count, seed):
    return np.random.default_rng(seed).pareto(alpha - 1, count) + 1


@pytest.mark.parametrize("alpha", [2.0, 3.0, 4.5])
def test_a_planted_exponent_is_recovered(alpha):
    every = [fitted(pareto(alpha, 600, seed)) for seed in range(10)]
    assert sum(abs(one.alpha - alpha) < 2 * one.error for one in every) >= 8
    assert sum(one.p_value >= 0.1 for one in every) >= 7
    assert all(one.error == pytest.approx((one.alpha - 1) / one.size**0.5) for one in every)


def test_a_tail_above_a_body_is_found():
    """A quarter of the values is a power law from 1 on, the others lie below."""
    found = fitted(np.concatenate([pareto(2.5, 250, 1), np.random.default_rng(2).random(750)]))
    assert found.x_min == pytest.approx(1, rel=0.35)
    assert found.alpha == pytest.approx(2.5, abs=3 * found.error)


def test_by_hand():
    """`alpha = 1 + n / sum ln(x / x_min)` over the values from x_min on."""
    squares = pareto(2.5, 200, 3)
    found = fitted(squares)
    inside = np.sort(squares)[::-1][: found.size]
    assert inside[-1] == pytest.approx(found.x_min)
    assert found.alpha == pytest.approx(1 + found.size / np.log(inside / inside[-1]).sum())
    law = (inside / inside[-1]) ** (1 - found.alpha)
    steps = np.arange(found.size + 1) / found.size
    assert found.distance == pytest.approx(max((steps[1:] - law).max(), (law - steps[:-1]).max()))


@pytest.mark.parametrize("kind", ["uniform", "noise", "exponential"])
def test_no_heavy_tail_is_said_of_what_has_none(kind):
    drawn = np.random.default_rng(4)
    squares = {
        "uniform": drawn.random(800) + 0.01,
        "noise": np.linalg.svd(drawn.standard_normal((300, 300)), compute_uv=False) ** 2,
        "exponential": drawn.exponential(1.0, 3000),
    }[kind]
    found = fitted(squares)
    assert found.p_value < 0.1 or found.alpha > 6


def test_a_lognormal_is_rejected_more_often_than_a_power_law():
    drawn = [np.random.default_rng(seed) for seed in range(30)]
    normal = [fitted(np.exp(each.standard_normal(1000))).p_value < 0.1 for each in drawn]
    power = [fitted(each.pareto(1.5, 1000) + 1).p_value < 0.1 for each in drawn]
    assert sum(normal) >= sum(power) + 5


def test_the_rejections_of_true_power_laws_are_about_a_tenth():
    rejected = [fitted(pareto(2.5, 150, seed)).p_value < 0.1 for seed in range(120)]
    assert 0.01 <= sum(rejected) / 120 <= 0.2


@given(factor=st.floats(1e-4, 1e4))
def test_a_scaled_matrix_has_the_same_tail(factor):
    squares = pareto(2.5, 120, 5)
    one, other = fitted(squares), fitted(factor * squares)
    assert (other.size, other.p_value) == (one.size, one.p_value)
    assert other.alpha == pytest.approx(one.alpha)
    assert other.x_min == pytest.approx(factor * one.x_min)


def test_the_same_spectrum_has_the_same_answer():
    squares = pareto(2.5, 100, 6)
    assert fitted(squares) == fitted(squares.copy())


@pytest.mark.parametrize(
    "squares", [np.ones(100), 1 + 1e-14 * np.random.default_rng(0).random(100), pareto(2.5, FEWEST - 1, 7), np.zeros(0)]
)
def test_one_value_repeated_or_too_few_have_no_tail(squares):
    assert fitted(squares) is None


def test_zeros_are_no_part_of_a_spectrum():
    squares = pareto(2.5, 100, 8)
    padded = torch.cat([values(squares), torch.zeros(100, dtype=torch.float64)])
    assert tail(padded, (200, 200)) == fitted(squares)


def test_three_spectra_at_once():
    heavy = values(pareto(2.5, 100, 9))
    found = tails(heavy, None, heavy[:20], (100, 100))
    assert found.base == tail(heavy, (100, 100))
    assert found.tuned is found.update is None
    assert tails(None, heavy[:10], None, (100, 100)) is None
    assert math.isfinite(found.base.x_min)
