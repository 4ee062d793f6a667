"""In the base's basis every answer is that of the dense matrix, and no leading value is missed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectra import testing
from spectra.engine import basis, dense
from spectra.engine.basis import count_above
from spectra.engine.krylov import Diagonal
from spectra.engine.resemblance import SIDES, cosines

SEEDS = st.integers(0, 10**6)
SHAPES = [(200, 200), (260, 200), (200, 260)]


def factors(m, n, rank, seed, count=1):
    generator = torch.Generator().manual_seed(seed)
    B = torch.randn(count, m, rank, generator=generator, dtype=torch.float64) / m**0.5
    A = torch.randn(count, rank, n, generator=generator, dtype=torch.float64) / n**0.5
    return B, A


@given(m=st.integers(5, 30), n=st.integers(5, 30), rank=st.integers(1, 4), missing=st.integers(0, 4), seed=SEEDS)
def test_the_coordinates_are_the_matrix_itself(m, n, rank, missing, seed):
    """Tall, wide, square and rank-deficient: the same singular values, nothing outside the ranges dropped."""
    values = torch.linspace(2, 1, max(1, min(m, n) - missing), dtype=torch.float64)
    base = testing.with_spectrum(values, m, n, seed=seed)
    B, A = factors(m, n, rank, seed)
    inside = basis.coordinates(dense.svd(base), B, A).operator
    W = inside(torch.eye(inside.shape[2], dtype=torch.float64)[None])[0].T
    expected = torch.linalg.svdvals(base + B[0] @ A[0])
    torch.testing.assert_close(torch.linalg.svdvals(W)[: len(expected)], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("rank", [1, 4, 20])
def test_leading_triplets_and_likeness_are_those_of_the_full_decomposition(shape, rank):
    base = testing.decaying(*shape, seed=rank, exponent=0.5)
    B, A = factors(*shape, rank, seed=1, count=3)
    svd = dense.svd(base)
    inside = basis.coordinates(svd, B, A)
    found = basis.top(inside, 8)
    assert bool((found.missed == 0).all())
    for member in range(3):
        update = B[member] @ A[member]
        full = dense.svd(base + update)
        torch.testing.assert_close(found.S[member, :8], full.S[:8], rtol=1e-8, atol=0)
        moved = (full.U[:, :8] * (update @ full.Vh[:8].T)).sum(0)
        torch.testing.assert_close(basis.moved(inside, found)[member], moved, rtol=0, atol=1e-3)
        for side in SIDES:
            known = basis.resemblances(inside, found, side)[member]
            true = cosines(svd, full, k=8, side=side).amax(0)
            assert bool((known.found - 1e-9 <= true).all())
            assert bool((true <= known.bound + 1e-9).all())
            assert float((known.bound - known.found).max()) < 5e-3
            assert known.complete


@given(seed=SEEDS, m=st.integers(4, 20), n=st.integers(4, 20), rank=st.integers(1, 5), at=st.floats(0.05, 4))
def test_the_inertia_count_is_the_number_of_singular_values_above(seed, m, n, rank, at):
    p = min(m, n)
    values = torch.linspace(2, 0.5, p, dtype=torch.float64)
    P, Q = factors(m, n, rank, seed)
    W = torch.zeros(m, n, dtype=torch.float64)
    W[:p, :p] = values.diag()
    true = torch.linalg.svdvals(W + P[0] @ Q[0])
    if bool(((true - at).abs() < 1e-6).any() or ((values - at).abs() < 1e-6).any()):
        return
    level = torch.tensor([at], dtype=torch.float64)
    assert int(count_above(Diagonal(values, P, Q.mT), level)) == int((true > at).sum())


def test_a_start_that_misses_a_value_is_noticed_and_mended(monkeypatch):
    """An update without any part on the rows that the space starts from would stay unseen."""
    base = testing.decaying(300, 300, seed=1, exponent=0.3)
    svd = dense.svd(base)
    hidden = 3 * svd.U[:, 250:251], svd.Vh[250:251]
    inside = basis.coordinates(svd, hidden[0][None], hidden[1][None])
    seen = basis.top(inside, 5)
    monkeypatch.setattr(basis, "_start", lambda operator, k: torch.eye(12, 300, dtype=torch.float64)[None])
    mended = basis.top(inside, 5)
    torch.testing.assert_close(mended.S[0, :5], seen.S[0, :5], rtol=1e-6, atol=0)
    assert float(mended.S[0, 0]) > 3
    assert float(mended.missed[0]) == 0


def test_a_scaled_update_scales_p_alone():
    base = testing.decaying(120, 120, seed=1)
    B, A = factors(120, 120, 4, seed=2)
    svd = dense.svd(base)
    scales = torch.tensor([0.0, 0.5, 2.0])
    found = basis.top(basis.coordinates(svd, B, A).scaled(scales), 4)
    for place, scale in enumerate(scales.tolist()):
        alone = basis.top(basis.coordinates(svd, scale * B, A), 4)
        torch.testing.assert_close(found.S[place, :4], alone.S[0, :4], rtol=1e-7, atol=1e-9)
