"""Leading triplets are those of the full decomposition, within the error that each of them states."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectra import testing
from spectra.engine.certificate import chance_hidden
from spectra.engine.krylov import Operator
from spectra.engine.leading import leading

SEEDS = st.integers(0, 10**6)


def exact(W):
    U, S, Vh = torch.linalg.svd(W.double(), full_matrices=False)
    return U.T, S, Vh


def distance(u, v):
    """Between unit vectors, whichever sign they have."""
    return torch.minimum((u - v).norm(dim=1), (u + v).norm(dim=1))


@given(
    m=st.integers(80, 200),
    n=st.integers(80, 200),
    exponent=st.floats(0.2, 1.5),
    seed=SEEDS,
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_vectors_lie_within_their_errors_of_the_true_ones(m, n, exponent, seed, dtype):
    W = testing.decaying(m, n, seed=seed, exponent=exponent).to(dtype)
    found = leading(Operator(W[None]), 6)
    U, S, Vh = exact(W)
    rounding = 1e-5 if dtype == torch.float32 else 1e-10
    torch.testing.assert_close(found.S[0], S[:7], rtol=0.05, atol=0)
    torch.testing.assert_close(found.S[0, :6], S[:6], rtol=1e-4, atol=0)
    assert bool((distance(found.U[0].double(), U[:6]) <= 1.01 * found.error[0] + rounding).all())
    assert bool((distance(found.V[0].double(), Vh[:6]) <= 1.01 * found.error[0] + rounding).all())
    residual = (found.V[0] @ W.T - found.S[0, :6, None] * found.U[0]).norm(dim=1) / S[0]
    assert bool((residual <= found.residual[0] + rounding).all())


def test_it_stops_when_every_vector_is_good_and_none_can_hide():
    found = leading(Operator(testing.decaying(400, 300, seed=1)[None]), 10)
    assert float(found.error.max()) <= 1e-3
    assert float(found.missed[0]) <= 1e-6


@given(seed=SEEDS)
def test_tied_values_are_one_cluster_whose_space_is_known(seed):
    W = testing.with_spectrum([5, 4, 3, 3, 2, *torch.linspace(1, 0.1, 95).tolist()], 120, 100, seed=seed)
    found = leading(Operator(W[None]), 5)
    assert found.label[0].tolist() == [0, 1, 2, 2, 3]
    U, _, _ = exact(W)
    space, true = found.U[0, 2:4], U[2:4]
    assert float((space - (space @ true.T) @ true).norm()) <= 1.01 * float(found.error[0, 2]) + 1e-9
    assert float(found.error[0, 2]) < 1e-3


def test_a_batch_is_its_members():
    W = torch.stack([testing.decaying(90, 120, seed=seed) for seed in range(3)])
    together = leading(Operator(W), 4)
    for member in range(3):
        alone = leading(Operator(W[member][None]), 4)
        torch.testing.assert_close(together.S[member], alone.S[0], rtol=1e-6, atol=1e-9)
    some = together.part([2])
    assert bool((some.U[0] == together.U[2]).all())
    assert len(some.S) == 1


def test_the_fused_operator_never_forms_the_update():
    base = testing.decaying(90, 120, seed=5)
    update = testing.plant_intruders(base, 2, seed=6)
    fused = leading(Operator(base[None], update.B[None], update.A[None]), 5)
    formed = leading(Operator((base + update.dense())[None]), 5)
    torch.testing.assert_close(fused.S, formed.S, rtol=1e-9, atol=1e-9)


# --- the chance that a value hides


@pytest.mark.parametrize("columns", [1, 2, 6])
def test_a_hidden_value_is_as_rare_as_the_bound_says(columns):
    """Few steps from few random columns, many times over: how often does the top value stay unseen?"""
    values = torch.ones(200, dtype=torch.float64)
    values[0] = 1.5  # of M
    steps, unseen, tries = 4, 0, 400
    generator = torch.Generator().manual_seed(columns)
    for _ in range(tries):
        G, _ = torch.linalg.qr(torch.randn(200, columns, generator=generator, dtype=torch.float64))
        # Ritz values of span{G, .., M^3 G} below 1.05 hide it.
        space, _ = torch.linalg.qr(torch.cat([values[:, None] ** power * G for power in range(steps)], 1))
        unseen += bool(torch.linalg.eigvalsh(space.T @ (values[:, None] * space))[-1] < 1.05)
    assert unseen / tries <= chance_hidden((1.5 - 1.05) / 1.05, steps, 200, columns) + 0.02


def test_the_bound_falls_with_steps_columns_and_gap_and_never_passes_one():
    assert chance_hidden(0.0, 9, 100, 4) == chance_hidden(0.5, 0, 100, 4) == chance_hidden(0.5, 9, 100, 0) == 1
    few, more_steps = chance_hidden(0.2, 4, 1000, 4), chance_hidden(0.2, 8, 1000, 4)
    more_columns, wider = chance_hidden(0.2, 8, 1000, 8), chance_hidden(0.4, 8, 1000, 4)
    assert 1 >= few > more_steps > max(more_columns, wider) > 0
