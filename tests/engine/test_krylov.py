"""A Krylov space is orthonormal, holds the products it claims, and measures what rounding adds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectra import testing
from spectra.engine import krylov
from spectra.engine.krylov import Diagonal, Krylov, Operator, random_rows

SEEDS = st.integers(0, 10**6)


def operator(m, n, seed, dtype=torch.float64, rank=0):
    base = testing.decaying(m, n, seed=seed).to(dtype)[None]
    if not rank:
        return Operator(base)
    generator = torch.Generator().manual_seed(seed)
    B, A = (
        torch.randn(1, *shape, generator=generator, dtype=torch.float64).to(dtype) for shape in ((m, rank), (rank, n))
    )
    return Operator(base, B, A)


def dense(of):
    return of.base[0] if of.B is None else of.base[0] + of.B[0] @ of.A[0]


@pytest.mark.parametrize("shape", [(300, 280), (270, 500)])
@pytest.mark.parametrize("width", [1, 12, 17])
def test_products_of_few_rows_are_plain_products(shape, width):
    """oneDNN's kernel gives what the plain product gives, on the matrix and on its transposed view."""
    wide = operator(*shape, seed=3, dtype=torch.float32)
    for of in (wide, wide.transposed):
        x = random_rows(1, width, of.shape[2], of.like, seed=1)
        expected = x.double() @ of.base.double().mT
        torch.testing.assert_close(of(x).double(), expected, rtol=0, atol=2e-6 * float(expected.abs().max()))


@given(m=st.integers(30, 60), n=st.integers(30, 60), seed=SEEDS, rank=st.integers(0, 3), steps=st.integers(1, 5))
def test_the_basis_is_orthonormal_and_invariant_but_for_its_leak(m, n, seed, rank, steps):
    of = operator(m, n, seed, rank=rank)
    space = Krylov(of, random_rows(1, 4, m, of.like, seed), steps)
    space.grow(steps)
    Q, W = space.basis[0], dense(of)
    torch.testing.assert_close(Q @ Q.T, torch.eye(len(Q), dtype=Q.dtype), rtol=0, atol=1e-12)
    torch.testing.assert_close(space.images[0], Q @ W, rtol=0, atol=1e-11)
    ritz = space.ritz()
    vectors = space.vectors(ritz.vectors.mT)[0]
    residual = (vectors @ W @ W.T - ritz.values[0][:, None] * vectors).norm(dim=1)
    torch.testing.assert_close(residual, ritz.leak[0].norm(dim=0), rtol=1e-6, atol=1e-9)
    assert bool((residual <= ritz.residuals()[0] + 1e-12).all())


@given(seed=SEEDS, scale=st.integers(-20, 20))
def test_ritz_values_scale_with_the_square(seed, scale):
    one, other = operator(40, 50, seed), Operator(operator(40, 50, seed).base * 2.0**scale)
    values = []
    for of in (one, other):
        space = Krylov(of, random_rows(1, 4, 40, of.like, 0), 3)
        space.grow(3)
        values.append(space.ritz().values)
    torch.testing.assert_close(values[1], values[0] * 4.0**scale, rtol=1e-9, atol=0)


def test_rounding_is_that_of_the_precision():
    for dtype, least, most in ((torch.float32, 1e-8, 1e-5), (torch.float64, 1e-17, 1e-13)):
        of = operator(300, 300, seed=1, dtype=dtype)
        space = Krylov(of, random_rows(1, 12, 300, of.like, 0), 6)
        space.grow(6)
        ritz = space.ritz()
        assert least < float(ritz.rounding / ritz.values[0, 0]) < most


def test_a_space_that_is_used_up_stays_orthonormal():
    """Rank 3: after one step nothing new is left, and what fills the block is noise."""
    W = testing.with_spectrum([3.0, 2.0, 1.0], 60, 50, seed=2)[None]
    space = Krylov(Operator(W), random_rows(1, 6, 60, W, 0), 4)
    space.grow(4)
    Q = space.basis[0]
    torch.testing.assert_close(Q @ Q.T, torch.eye(len(Q), dtype=Q.dtype), rtol=0, atol=1e-10)
    torch.testing.assert_close(space.ritz().values[0, :3], torch.tensor([9.0, 4, 1], dtype=torch.float64))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cholesky_makes_a_start_of_uneven_rows_orthonormal(monkeypatch, dtype):
    """As on CUDA: short rows beside long ones lose nothing."""
    monkeypatch.setattr(krylov, "_orthonormal", krylov._cholesky_orthonormal)
    of = operator(300, 280, seed=3, dtype=dtype)
    start = random_rows(1, 12, 300, of.like, 0) * torch.logspace(-4, 3, 12)[:, None].to(dtype)
    space = Krylov(of, start, 6)
    space.grow(6)
    Q = space.basis[0].double()
    close = 2e-6 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(Q @ Q.T, torch.eye(len(Q), dtype=Q.dtype), rtol=0, atol=close)
    assert float(space.ritz().rounding / space.ritz().values[0, 0]) < 10 * close


def test_a_batch_is_its_members_and_some_may_go_on_alone():
    bases = torch.stack([testing.decaying(40, 50, seed=seed) for seed in range(3)])
    start = random_rows(3, 4, 40, bases, 0)
    together = Krylov(Operator(bases), start, 5)
    together.grow(2)
    together.keep([2, 0])
    together.grow(3)
    for place, member in enumerate((2, 0)):
        alone = Krylov(Operator(bases[member][None]), start[:1], 5)
        alone.grow(5)
        torch.testing.assert_close(together.ritz().values[place], alone.ritz().values[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("m", "n"), [(9, 9), (12, 9), (9, 12)])
def test_a_diagonal_with_factors_is_its_dense_matrix(m, n):
    generator = torch.Generator().manual_seed(0)
    values = torch.arange(9.0, 0, -1, dtype=torch.float64)
    P, Q = (torch.randn(2, size, 3, generator=generator, dtype=torch.float64) for size in (m, n))
    W = torch.zeros(m, n, dtype=torch.float64)
    W[:9, :9] = values.diag()
    W = W + P @ Q.mT
    of = Diagonal(values, P, Q)
    x, y = (torch.randn(2, 5, size, generator=generator, dtype=torch.float64) for size in (n, m))
    torch.testing.assert_close(of(x), x @ W.mT)
    torch.testing.assert_close(of.transposed(y), y @ W)
    torch.testing.assert_close(of.part(torch.tensor([1]))(x[1:]), x[1:] @ W[1:].mT)
