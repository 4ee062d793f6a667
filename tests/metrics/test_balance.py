"""Balance of the factors: the one thing in a row that depends on the gauge, by hand."""

import math

import pytest
import torch

from spectra import testing
from spectra.metrics.balance import balance
from spectra.updates import Dense, LowRank, Rescaled, Sum


def factors(rank=4):
    U, V = testing.orthogonal(30, rank, seed=1), testing.orthogonal(20, rank, seed=2)
    return U.float(), V.T.float()


def test_equal_factors_are_balanced():
    B, A = factors()
    result = balance(LowRank(0.5 * B, A), 0.5)
    assert (result.B, result.A, result.ratio) == pytest.approx((2, 2, 1))
    assert result.imbalance == pytest.approx(0, abs=1e-6)
    assert (result.scaling, result.dead) == (0.5, 0)


def test_the_gauge_moves_it_and_nothing_else():
    """B -> 3 B, A -> A / 3 is the same update: `||9 - 1/9|| / (9 + 1/9)` of orthonormal factors."""
    B, A = factors()
    result = balance(LowRank(3 * B, A / 3), 1.0)
    assert result.ratio == pytest.approx(9, rel=1e-5)
    assert result.imbalance == pytest.approx((9 - 1 / 9) / (9 + 1 / 9), rel=1e-5)


def test_different_directions_of_the_rank_are_seen_although_the_norms_agree():
    B, A = factors(2)
    weights = torch.tensor([3.0, 1.0])
    result = balance(LowRank(B * weights, A * weights.flip(0)[:, None]), 1.0)
    assert result.ratio == pytest.approx(1, rel=1e-5)
    assert result.imbalance == pytest.approx(2**0.5 * 8 / (2 * 82**0.5), rel=1e-5)


def test_zero_factors_are_told_apart():
    B, A = factors()
    none_B, none_A, neither = (
        balance(LowRank(*pair), 2.0)
        for pair in ((0 * B, A), (B, 0 * A), (0 * B, 0 * A))
    )  # fmt: skip
    assert (none_B.B, none_B.ratio, none_B.imbalance, none_B.dead) == (0, 0, pytest.approx(1), 0)
    assert (none_A.A, none_A.ratio, none_A.imbalance, none_A.dead) == (0, math.inf, pytest.approx(1), 0)
    assert (neither.B, neither.A, neither.ratio, neither.imbalance, neither.dead) == (0, 0, None, None, 4)


def test_a_rank_whose_both_halves_are_zero_is_dead():
    B, A = factors()
    B, A = B.clone(), A.clone()
    B[:, [0, 2]] = 0
    A[[2, 3]] = 0
    assert balance(LowRank(B, A), 1.0).dead == 1


def test_of_dora_it_is_that_of_the_inner_update():
    B, A = factors()
    inner = LowRank(3 * B, A)
    assert balance(Rescaled(torch.ones(30, 20), inner, torch.full((30,), 2.0)), 1.5) == balance(inner, 1.5)


@pytest.mark.parametrize("scaling", [None, 0.0])
def test_without_a_scaling_that_can_be_taken_out_there_is_none(scaling):
    assert balance(LowRank(*factors()), scaling) is None


def test_what_has_no_one_pair_of_factors_has_none():
    B, A = factors()
    assert balance(Dense(B @ A), 1.0) is None
    assert balance(Sum((LowRank(B, A), LowRank(-B, A))), 1.0) is None
