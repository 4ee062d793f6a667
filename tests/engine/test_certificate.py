"""The bound on a single eigenvector is never below the truth, and comes close to it as the space grows."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectra import testing
from spectra.engine.certificate import AtomBound
from spectra.engine.krylov import Krylov, Operator, random_rows

SEEDS = st.integers(0, 10**6)


def space_from(W, vectors, steps, spare=2):
    start = torch.cat([vectors, random_rows(1, spare, W.shape[0], W, 1)[0]])[None]
    space = Krylov(Operator(W[None]), start, steps)
    space.grow(steps)
    ritz = space.ritz()
    e = ritz.vectors[:, : space.width].mT @ (space.first_block @ vectors.T).double()
    return ritz, e


def unit_rows(j, m, seed):
    rows = torch.randn(j, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return rows / rows.norm(dim=1, keepdim=True)


def everywhere(ritz):
    return torch.zeros(1, dtype=torch.float64), 1.01 * ritz.values[:, 0] + 1e-12


@given(
    m=st.integers(40, 90),
    exponent=st.floats(0.1, 1.2),
    seed=SEEDS,
    steps=st.integers(1, 6),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_no_eigenvector_holds_more_than_the_bound(m, exponent, seed, steps, dtype):
    W = testing.decaying(m, m + seed % 20, seed=seed, exponent=exponent).to(dtype)
    vectors = unit_rows(3, m, seed).to(dtype)
    ritz, e = space_from(W, vectors, steps)
    low, high = everywhere(ritz)
    bound = AtomBound(ritz, e).largest(low, high, torch.full((1, 3), 0.3, dtype=torch.float64))[0]
    U, _, _ = torch.linalg.svd(W.double())
    true = (vectors.double() @ U).abs().amax(1)
    assert bool((true <= bound + (1e-6 if dtype == torch.float32 else 1e-10)).all())


@given(seed=SEEDS, cluster=st.integers(2, 6))
def test_a_cluster_counts_as_one(seed, cluster):
    """Values 1e-9 apart: their single cosines may be small, the projection on their space may not exceed the bound."""
    values = torch.linspace(1, 0.1, 60, dtype=torch.float64)
    values[10 : 10 + cluster] = values[10] * (1 - 1e-9 * torch.arange(cluster, dtype=torch.float64))
    W = testing.with_spectrum(values, 60, 60, seed=seed)
    U, _, _ = torch.linalg.svd(W)
    vector = U[:, 10 : 10 + cluster].sum(1) * 0.8 / cluster**0.5 + 0.6 * U[:, 40]
    ritz, e = space_from(W, vector[None], 5)
    low, high = everywhere(ritz)
    bound = AtomBound(ritz, e).largest(low, high, torch.zeros(1, 1, dtype=torch.float64))
    assert 0.8 - 1e-6 <= float(bound) <= 0.85


def test_it_comes_down_to_the_truth_as_the_space_grows():
    W = testing.decaying(90, 90, seed=4, exponent=0.3)
    vectors = unit_rows(2, 90, 9)
    U, _, _ = torch.linalg.svd(W)
    true = float((vectors @ U).abs().max())
    bounds = []
    for steps in (1, 3, 6, 10, 18):
        ritz, e = space_from(W, vectors, steps)
        low, high = everywhere(ritz)
        bounds.append(float(AtomBound(ritz, e).largest(low, high, torch.zeros(1, 2, dtype=torch.float64)).max()))
    assert bounds == sorted(bounds, reverse=True)
    assert bounds[0] > 0.7
    assert bounds[-1] < 1.4 * true


def test_points_that_no_covering_can_pass_are_told_beforehand():
    W = testing.decaying(90, 90, seed=4, exponent=0.3)
    ritz, e = space_from(W, unit_rows(2, 90, 9), 2)
    low, high = everywhere(ritz)
    atom = AtomBound(ritz, e)
    covered = atom.largest(low, high, torch.zeros(1, 2, dtype=torch.float64))
    assert bool((atom.obstruction(low, high) <= covered).all())


@pytest.mark.parametrize("over", [False, True])
def test_a_range_without_the_value_excludes_its_vector(over):
    """A vector on one eigenvector: large where the range holds its value, small where it does not."""
    W = testing.with_spectrum(torch.linspace(1, 0.2, 50, dtype=torch.float64), 50, 50, seed=1)
    U, S, _ = torch.linalg.svd(W)
    ritz, e = space_from(W, U[:, 20][None], 6)
    atom = AtomBound(ritz, e, over_value=over)
    target = torch.full((1, 1), 0.05, dtype=torch.float64)

    def within(low, high):
        edges = (torch.tensor([value**2], dtype=torch.float64) for value in (low, high))
        return float(atom.largest(*edges, target))

    scale = 1 / S[20].item() if over else 1.0
    assert within(0.9 * S[20], 1.1 * S[20]) >= 0.99 * scale
    assert within(0.19, 0.5 * S[20]) < 0.06
