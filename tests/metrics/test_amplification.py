"""Amplification: the paper's number, where it is known by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectra import testing
from spectra.engine.update_directions import FEW, update_directions
from spectra.metrics.amplification import amplification
from spectra.metrics.norms import norms
from spectra.updates import Dense, LowRank

SEEDS = st.integers(0, 10**6)


def amplified(base, update):
    base = base.float()
    S0, S = (torch.linalg.svdvals(matrix.double()) for matrix in (base, update.dense()))
    return amplification(base, update_directions(update), norms(base, update, S0, S))


def low_rank(base, rank, seed, strength=0.5):
    return LowRank(*testing.lora({"w.weight": base.float()}, ["w"], rank=rank, strength=strength, seed=seed)["w"])


@given(seed=SEEDS, rank=st.integers(1, 8), m=st.integers(10, 40), n=st.integers(10, 40))
def test_it_is_that_of_lora_section_7(seed, rank, m, n):
    """`||dW||_F / ||U^T W V^T||_F` of Table 7, by full decomposition."""
    base = testing.decaying(m, n, seed=seed)
    update = low_rank(base, rank, seed + 1)
    dW = update.dense().double()
    U, _, Vh = torch.linalg.svd(dW, full_matrices=False)
    within = torch.linalg.norm(U[:, :rank].T @ base @ Vh[:rank].T).item()
    result = amplified(base, update)
    assert result.rank == rank
    assert result.within == pytest.approx(within, rel=1e-4)
    assert result.factor == pytest.approx(torch.linalg.norm(dW).item() / within, rel=1e-4)


@pytest.mark.parametrize("place", [0, 3, 20])
@pytest.mark.parametrize("scale", [0.01, 2.0])
def test_of_a_direction_of_the_base_it_is_the_ratio_of_the_values(place, scale):
    """dW = scale s_i u_i v_i^T: the base has s_i there."""
    U, V = testing.orthogonal(50, 30, seed=1), testing.orthogonal(40, 30, seed=2)
    S = torch.arange(30, 0, -1, dtype=torch.float64)
    base, one = (U * S) @ V.T, slice(place, place + 1)
    result = amplified(base, LowRank(scale * S[one] * U[:, one], V[:, one].T))
    assert (result.rank, result.factor) == (1, pytest.approx(scale, rel=1e-5))
    assert result.within == pytest.approx(float(S[place]), rel=1e-5)
    energy = float(S.square().sum()) ** 0.5
    assert result.by_chance == pytest.approx(scale * float(S[place]) / (energy / 2000**0.5), rel=1e-5)


def test_where_the_base_has_nothing_it_is_infinite():
    U, V = testing.orthogonal(50, 40, seed=1), testing.orthogonal(40, 40, seed=2)
    base = (U[:, :30] * torch.linspace(3, 1, 30)) @ V[:, :30].T
    result = amplified(base, LowRank(U[:, 35:37], V[:, 35:37].T))
    assert result.factor == math.inf
    assert result.within < 1e-5


def test_random_directions_amplify_as_by_chance():
    """The mean over 200 draws of `within^2` is `||W0||_F^2 r^2 / (m n)`."""
    base = testing.decaying(60, 50, seed=1)
    drawn = [amplified(base, low_rank(base, 3, seed)) for seed in range(200)]
    within = sum(one.within**2 for one in drawn) / len(drawn)
    expected = sum((one.factor * one.within / one.by_chance) ** 2 for one in drawn) / len(drawn)
    assert within == pytest.approx(expected, rel=0.15)


def test_of_a_dense_update_its_leading_directions_are_compared_with_their_own_strength():
    base, update = testing.decaying(60, 50, seed=1), Dense(testing.noise(60, 50, level=1.0, seed=2).float())
    result = amplified(base, update)
    U, S, Vh = torch.linalg.svd(update.matrix.double(), full_matrices=False)
    within = torch.linalg.norm(U[:, :FEW].T @ base @ Vh[:FEW].T)
    assert result.rank == FEW
    assert result.factor == pytest.approx(float(S[:FEW].norm() / within), rel=1e-4)


@pytest.mark.parametrize("scale", [1e-32, 1e30])
def test_bases_at_the_ends_of_float32_are_measured_too(scale):
    base = testing.decaying(60, 50, seed=1)
    update = low_rank(base, 3, 2)
    scaled = LowRank(update.B * scale, update.A)
    assert amplified(base * scale, scaled).factor == pytest.approx(amplified(base, update).factor, rel=1e-4)


def test_a_base_whose_products_leave_float32_is_measured_too():
    """Forty by forty entries of 1e38: sigma_1 is 4e39, which float32 does not hold."""
    base, one = torch.full((40, 40), 1e38), torch.full((40, 1), 40**-0.5)
    result = amplified(base, LowRank(2.0 * one, one.T))
    assert result.within == pytest.approx(4e39, rel=1e-5)
    assert result.factor == pytest.approx(2 / 4e39, rel=1e-5)


def test_without_a_base_or_a_direction_there_is_none():
    base = testing.decaying(60, 50, seed=1)
    assert amplified(torch.zeros(60, 50), low_rank(base, 3, 2)) is None
    assert amplified(base, Dense(torch.zeros(60, 50))) is None
