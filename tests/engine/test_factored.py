"""The factored path is the decomposition of the product, and never forms it."""

import resource
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectra import testing
from spectra.engine import dense, factored
from spectra.errors import NonFiniteError


def draw(m, r, n, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(m, r, generator=generator).to(dtype), torch.randn(r, n, generator=generator).to(dtype)


@given(
    m=st.integers(1, 20),
    n=st.integers(1, 20),
    r=st.integers(1, 30),
    rank=st.integers(1, 30),
    seed=st.integers(0, 10**6),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]),
)
def test_values_and_product_are_those_of_the_dense_matrix(m, n, r, rank, seed, dtype):
    """For every r, above min(m, n) as well, and for factors that do not use their rank."""
    B, A = draw(m, r, n, seed, dtype)
    B[:, rank:] = 0
    found = factored.svd(B, A)
    product = B.double() @ A.double()
    assert len(found.S) == min(m, n, r)
    expected = torch.linalg.svdvals(product)[: len(found.S)]
    torch.testing.assert_close(found.S, expected, rtol=1e-12, atol=1e-13 * expected[0].item())
    torch.testing.assert_close((found.U * found.S) @ found.Vh, product, rtol=0, atol=1e-12 * expected[0].item())
    eye = torch.eye(len(found.S), dtype=torch.float64)
    torch.testing.assert_close(found.U.T @ found.U, eye, rtol=0, atol=1e-13)
    torch.testing.assert_close(found.Vh @ found.Vh.T, eye, rtol=0, atol=1e-13)


def test_float32_factors_agree_with_the_float32_product():
    B, A = draw(80, 6, 50, 1, torch.float32)
    values = dense.svd(B @ A).S[:6].double()
    torch.testing.assert_close(factored.svd(B, A).S, values, rtol=1e-6, atol=0)


@given(seed=st.integers(0, 10**6), spread=st.floats(0, 3))
def test_the_split_into_factors_does_not_matter(seed, spread):
    """`B -> B Q, A -> Q^-1 A` leaves the spectrum as it is."""
    B, A = draw(30, 4, 20, seed)
    Q = testing.with_spectrum(torch.logspace(0, spread, 4, dtype=torch.float64), 4, 4, seed=seed)
    other = factored.svd(B @ Q, torch.linalg.solve(Q, A))
    torch.testing.assert_close(other.S, factored.svd(B, A).S, rtol=1e-10, atol=1e-10)


def test_small_singular_values_of_the_product_survive():
    """A Gram matrix in float32 would give back 1e-6 as 2e-4."""
    values = torch.tensor([1.0, 1e-3, 1e-6, 1e-9], dtype=torch.float64)
    U, V = testing.orthogonal(40, 4, seed=1), testing.orthogonal(30, 4, seed=2)
    torch.testing.assert_close(factored.svd(U * values, V.T).S, values, rtol=1e-6, atol=0)


def test_a_product_beyond_float32_is_decomposed():
    B, A = draw(6, 2, 5, 3, torch.float32)
    found = factored.svd(1e30 * B, 1e30 * A)
    torch.testing.assert_close(found.S / 1e60, factored.svd(B, A).S, rtol=1e-6, atol=0)


def test_zero_factors_have_zero_values():
    assert factored.svd(torch.zeros(5, 2), torch.ones(2, 4)).S.tolist() == [0, 0]


def test_rank_zero_has_no_values():
    found = factored.svd(torch.zeros(5, 0), torch.zeros(0, 4))
    assert found.shape == (5, 4)
    assert len(found.S) == 0


@pytest.mark.parametrize("name", ["B", "A"])
def test_a_factor_that_is_not_finite_is_named(name):
    B, A = draw(5, 2, 4, 0)
    (B if name == "B" else A)[1, 0] = float("nan")
    with pytest.raises(
        NonFiniteError, match=rf"the factor {name} holds 1 value that is NaN or infinite, first at \[1, 0\]"
    ):
        factored.svd(B, A)


def test_the_product_is_never_formed():
    """200,000 x 200,000 in float32 would be 160 GB; the factors are 6 MB."""
    B, A = draw(200_000, 4, 200_000, 0, torch.float32)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    found = factored.svd(B, A)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert found.shape == (200_000, 200_000)
    assert grown < 300 * 1024  # kilobytes
    assert time.monotonic() - started < 20
