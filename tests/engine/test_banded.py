"""Values by reduction to a band are those of the full decomposition, over the whole range that float32 resolves."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectra import testing
from spectra.engine import banded, dense

# Shapes around the width of a block, square, tall, wide and tall enough for a QR first.
SHAPES = [(1, 1), (1, 9), (9, 1), (63, 64), (64, 64), (65, 64), (65, 65), (64, 65), (128, 64), (129, 128), (200, 333)]
ROUNDINGS = 16.0  # gesdd in float32 itself leaves 30 on such matrices


def graded(count, decades):
    return torch.logspace(0, -decades, count, dtype=torch.float64)


def error(matrix):
    """The largest error of any value over the largest value."""
    expected = torch.linalg.svdvals(matrix.double())
    found = banded.singular_values(matrix.clone())
    assert bool((found[:-1] >= found[1:]).all())
    assert found.dtype == torch.float64
    return ((found - expected).abs().max() / expected[0]).item()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_every_shape_has_the_values_of_lapack(shape, dtype):
    matrix = testing.with_spectrum(graded(min(shape), 3), *shape, seed=sum(shape)).to(dtype)
    assert error(matrix) < max(ROUNDINGS * torch.finfo(dtype).eps, 2e-8)


@pytest.mark.parametrize("decades", [0, 1, 3, 6, 9])
def test_graded_values_are_right_down_to_the_rounding_of_float32(decades):
    """So the numerical rank, whose line is `eps max(m, n) sigma_1`, is that of float64."""
    m, n = 320, 300
    matrix = testing.with_spectrum(graded(n, decades), m, n, seed=decades).float()
    assert error(matrix) < ROUNDINGS * torch.finfo(torch.float32).eps
    line = torch.finfo(torch.float32).eps * m
    found = banded.singular_values(matrix.clone())
    expected = torch.linalg.svdvals(matrix.double())
    near = (((expected - line).abs() < ROUNDINGS * torch.finfo(torch.float32).eps).sum()).item()
    assert abs(int((found > line).sum()) - int((expected > line).sum())) <= near


@given(m=st.integers(1, 150), n=st.integers(1, 150), rank=st.integers(0, 150), seed=st.integers(0, 10**6))
def test_any_shape_and_rank(m, n, rank, seed):
    """Columns that need no reflection, or are zero, are no trap."""
    rank = min(rank, m, n)
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(m, rank, generator=generator) @ torch.randn(rank, n, generator=generator)
    if rank:
        assert error(matrix) < ROUNDINGS * torch.finfo(torch.float32).eps
    else:
        assert torch.equal(banded.singular_values(matrix), torch.zeros(min(m, n), dtype=torch.float64))


@pytest.mark.parametrize("matrix", [torch.eye(130), torch.eye(130, 70), torch.eye(70).flip(0), torch.ones(70, 90)])
def test_matrices_that_are_reduced_already(matrix):
    assert error(matrix) < ROUNDINGS * torch.finfo(torch.float32).eps


def test_large_matrices_take_the_band_and_say_so(monkeypatch):
    monkeypatch.setattr(dense, "_BANDED_FROM", 96)
    matrix = testing.decaying(120, 100, seed=1).float()
    monkeypatch.setattr(torch.linalg, "svdvals", lambda *_: pytest.fail("gesdd was asked"))
    found, how = dense.values(matrix)
    assert how == "reduction to a band in float32"
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, dense.svd(matrix).S, rtol=1e-5, atol=1e-6)


def test_float64_keeps_its_own_precision(monkeypatch):
    """The band's values are good to 1e-8: float64 data has smaller ones."""
    monkeypatch.setattr(dense, "_BANDED_FROM", 30)
    matrix = testing.with_spectrum(graded(40, 12), 40, 40, seed=2)
    found, how = dense.values(matrix)
    assert how == "gesdd float64"
    torch.testing.assert_close(found, graded(40, 12), rtol=1e-3, atol=0)


@pytest.mark.parametrize("rubbish", [lambda A: torch.zeros(min(A.shape)), lambda A: torch.full((60,), torch.nan)])
def test_a_band_without_the_matrixs_energy_is_not_believed(rubbish, monkeypatch):
    monkeypatch.setattr(dense, "_BANDED_FROM", 30)
    matrix = testing.decaying(60, 60, seed=4).float()
    monkeypatch.setattr(banded, "singular_values", rubbish)
    found, how = dense.values(matrix)
    assert how == "gesdd float32"
    assert torch.equal(found, dense.svd(matrix).S)


def test_the_matrix_given_is_left_as_it_was(monkeypatch):
    monkeypatch.setattr(dense, "_BANDED_FROM", 30)
    matrix = testing.decaying(60, 50, seed=5).float()
    before = matrix.clone()
    dense.values(matrix)
    assert torch.equal(matrix, before)


@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30, 1e37])
def test_the_ends_of_float32_are_no_trap(scale, monkeypatch):
    monkeypatch.setattr(dense, "_BANDED_FROM", 30)
    matrix = (testing.decaying(60, 50, seed=6) * scale).float()
    expected = torch.linalg.svdvals(matrix.double() / scale)
    torch.testing.assert_close(dense.values(matrix)[0].double() / scale, expected, rtol=1e-4, atol=1e-5)
