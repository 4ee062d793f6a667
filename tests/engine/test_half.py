"""Vectors in half precision: how far they move is bounded, and no interval that rests on them misses the truth."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectra import testing
from spectra.engine import basis, dense
from spectra.engine.choose import Request, decompose
from spectra.engine.half import halved, norm_bound
from spectra.updates import LowRank


def kept(matrix):
    """The decomposition of a matrix as the cache gives it back: rounded to float16, then upcast."""
    found = halved(dense.svd(matrix), above=0)
    assert found.U.dtype == torch.float16
    return replace(found, U=found.U.float(), Vh=found.Vh.float())


def random_update(m, n, rank, strength, seed):
    factors = testing.lora(
        {"w.weight": testing.decaying(m, n, seed=seed)}, ["w"], rank=rank, strength=strength, seed=seed
    )
    return LowRank(*factors["w"])


def true_similarity(pair, k, side):
    """Largest |cosine| of each leading tuned vector with any base vector, by the full SVD in float64."""
    U0, _, V0h = torch.linalg.svd(pair.base.double(), full_matrices=False)
    dW = (
        pair.update.dense().double()
        if pair.update.factors is None
        else torch.matmul(*map(torch.Tensor.double, pair.update.factors))
    )
    U, _, Vh = torch.linalg.svd(pair.base.double() + dW, full_matrices=False)
    cosines = U0.T @ U[:, :k] if side == "left" else V0h @ Vh[:k].T
    return cosines.abs().amax(0)


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**31), st.floats(-3, 3))
def test_the_bound_holds_and_is_near(m, n, seed, exponent):
    matrix = testing.noise(m, n, level=10**exponent, seed=seed)
    assert 0.999 <= norm_bound(matrix) / 10**exponent <= 1.4


def test_a_zero_matrix_has_norm_zero():
    assert norm_bound(torch.zeros(4, 3)) == 0.0


@pytest.mark.parametrize("shape", [(80, 80), (120, 70), (70, 120)])
def test_no_stored_vector_is_farther_than_said(shape):
    exact = dense.svd(testing.decaying(*shape, seed=3))
    half = halved(exact, above=0)
    for now, then in ((half.U.double(), exact.U.double()), (half.Vh.double(), exact.Vh.double())):
        assert float(torch.linalg.matrix_norm(now - then, 2)) <= half.vector_error
    assert 1e-5 < half.vector_error < 1e-3
    assert half.method == f"{exact.method}, vectors kept in float16"
    assert torch.equal(half.S, exact.S)


def test_a_small_matrix_keeps_its_digits():
    exact = dense.svd(testing.decaying(30, 20, seed=0))
    assert halved(exact) is exact
    assert halved(exact, above=20) is exact
    assert halved(exact, above=19).U.dtype == torch.float16


def test_vectors_that_float16_would_move_too_far_stay(monkeypatch):
    exact = dense.svd(testing.decaying(30, 20, seed=0))
    monkeypatch.setattr("spectra.engine.half._MOST", 1e-5)
    assert halved(exact, above=0) is exact


@given(
    st.integers(64, 130), st.integers(64, 130), st.integers(1, 12), st.floats(0.02, 2), st.integers(0, 2**20),
    st.sampled_from(["left", "right"]),
)  # fmt: skip
def test_intervals_of_the_basis_path_contain_the_truth(m, n, rank, strength, seed, side):
    pair = testing.weight_pair(testing.decaying(m, n, seed=seed), random_update(m, n, rank, strength, seed))
    B, A = (factor[None] for factor in pair.update.factors)
    inside = basis.coordinates(kept(pair.base), B, A)
    (found,) = basis.resemblances(inside, basis.top(inside, 10), side)
    truth = true_similarity(pair, 10, side)
    assert bool((found.found <= truth + 1e-5).all())
    assert bool((truth <= found.bound + 1e-5).all())


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("shape", [(90, 90), (130, 80), (80, 130)])
def test_cosines_stay_within_a_thousandth_of_the_exact_path(shape, side):
    for seed in range(4):
        base = testing.decaying(*shape, seed=seed)
        pair = testing.weight_pair(base, testing.plant_intruders(base, 2, seed=seed))
        exact = decompose(pair, Request(method="exact", sides=(side,), k=5))
        for update in (pair, testing.weight_pair(base, pair.update.dense())):
            half = decompose(update, Request(method="basis", sides=(side,), k=5), base=kept(pair.base))
            assert half.method == "basis"
            assert half.base.vector_error > 0
            apart = (half.resemblances[0].cosines[:, :5] - exact.resemblances[0].cosines[:, :5]).abs().amax()
            assert float(apart) < 1e-3


def test_scales_share_the_error_of_the_vectors():
    pair = testing.weight_pair(testing.decaying(90, 90, seed=0), random_update(90, 90, 4, 0.5, 0))
    B, A = (factor[None] for factor in pair.update.factors)
    inside = basis.coordinates(kept(pair.base), B, A)
    scaled = inside.scaled(torch.tensor([0.5, 1.0, 2.0]))
    assert scaled.vector_error == inside.vector_error > 0
    half, whole, _ = basis.resemblances(scaled, basis.top(scaled, 10), "left")
    assert bool((half.bound > half.found).all())
    (alone,) = basis.resemblances(inside, basis.top(inside, 10), "left")
    torch.testing.assert_close(whole.bound, alone.bound, rtol=0, atol=1e-4)


def test_the_reference_takes_no_vector_that_was_rounded():
    pair = testing.weight_pair(testing.decaying(70, 70, seed=0), random_update(70, 70, 4, 0.5, 0))
    rounded = kept(pair.base)
    found = decompose(pair, Request(method="exact"), base=rounded)
    assert found.base is not rounded
    assert found.base.vector_error == 0


def test_what_the_coordinates_leave_open_is_decided_by_the_vectors_of_w():
    """At 512 x 512 the rounded coordinates of this update leave a vector undecided; W's own vectors do not."""
    base = testing.decaying(512, 512, seed=0)
    pair = testing.weight_pair(base, testing.rotate_top(base, seed=0))
    found = decompose(pair, Request(method="basis"), base=kept(pair.base))
    assert found.method == "basis"
    assert "block Krylov for W" in found.reason
    truth = true_similarity(pair, 10, "left")
    (side,) = found.resemblances
    assert bool(((side.found <= truth + 1e-5) & (truth <= side.bound + 1e-5)).all())
