"""Attribution: the sum of what single directions of an update give is what the whole update gives."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectra import testing
from spectra.engine.choose import Request, decompose
from spectra.engine.update_directions import FEW, Directions, update_directions
from spectra.metrics.attribution import attribution
from spectra.updates import Dense, LowRank

SEEDS = st.integers(0, 10**6)


def attributed(base, update, k=10, method="exact", **request):
    pair = testing.weight_pair(base, update.matrix if isinstance(update, Dense) else update)
    found = decompose(pair, Request(k=k, method=method, **request))
    directions = update_directions(pair.update, known=found.update)
    return found, attribution(found.projections, directions, pair.update, found.tuned_values, k=k)


def by_definition(base, update, k):
    """The terms `s_i (u_j.a_i)(b_i.v_j) / sigma_j` [k, q], from full decompositions in float64."""
    dW = update.dense().double()
    U, S, Vh = torch.linalg.svd(base.double() + dW, full_matrices=False)
    a, s, bh = torch.linalg.svd(dW, full_matrices=False)
    return (U.T @ a * s * (Vh @ bh.T))[:k] / S[:k, None]


@given(seed=SEEDS, rank=st.integers(1, 6), factored=st.booleans())
def test_it_is_the_largest_term_of_the_definition(seed, rank, factored):
    base = testing.decaying(40, 30, seed=seed)
    B, A = testing.lora({"w.weight": base}, ["w"], rank=rank, strength=0.8, seed=seed + 1)["w"]
    update = LowRank(B, A) if factored else Dense(B @ A)
    _, result = attributed(base, update, k=6)
    terms = by_definition(base, update, 6)[:, :rank]
    expected = terms.abs().max(1)
    torch.testing.assert_close(torch.tensor(result.direction_share).abs().double(), expected.values, rtol=0, atol=2e-3)
    assert result.directions == rank
    clear = terms.abs().topk(min(2, rank), dim=1).values
    clear = (clear[:, 0] - clear[:, -1] > 0.01) | (rank == 1)
    chosen = [i for i, told in zip(result.direction, clear.tolist(), strict=True) if told]
    assert chosen == [i for i, told in zip(expected.indices.tolist(), clear.tolist(), strict=True) if told]
    assert max(map(abs, result.rest)) < 2e-5


@pytest.mark.parametrize("method", ["exact", "certified", "basis"])
@pytest.mark.parametrize("dense", [False, True])
def test_a_planted_direction_is_attributed_to_itself(method, dense):
    """The strongest plant of the update is the strongest direction of W, and so on."""
    base = testing.decaying(240, 180, seed=1)
    update = testing.plant_intruders(base, 3, strength=1.5, seed=2)
    found, result = attributed(base, Dense(update.dense()) if dense else update, k=4, method=method)
    assert found.method == method
    assert result.direction[:3] == (0, 1, 2)
    assert min(result.direction_share[:3]) > 0.99
    assert abs(result.direction_share[3]) < 0.01


def test_what_was_not_looked_at_is_the_rest():
    """Twenty equal-handed plants of a dense update, of which sixteen are looked at: the others' shares are the rest."""
    base = testing.decaying(260, 250, seed=1)
    update = testing.plant_intruders(base, 20, strength=1.5, seed=2)
    _, result = attributed(base, Dense(update.dense()), k=20)
    assert result.directions == FEW
    assert max(map(abs, result.rest[:16])) < 0.01
    assert min(result.rest[16:]) > 0.99
    _, whole = attributed(base, update, k=20)
    assert whole.directions == 20
    assert whole.direction == tuple(range(20))


def test_tied_directions_count_as_one():
    """Two equal values: any basis of their space is right, and the sum of their terms is the same in each."""
    base = testing.decaying(80, 70, seed=1)
    U, V = testing.orthogonal(80, 3, seed=2), testing.orthogonal(70, 3, seed=3)
    s = torch.tensor([4.0, 4.0, 2.0], dtype=torch.float64)
    pair = testing.weight_pair(base, LowRank(U * s, V.T))
    found = decompose(pair, Request(method="exact"))
    turn = torch.block_diag(testing.orthogonal(2, 2, seed=5), torch.eye(1, dtype=torch.float64))
    results = [
        attribution(found.projections, Directions(U @ q, s, V @ q, (80, 70), 0.0, ""), pair.update, found.tuned_values, k=6)
        for q in (torch.eye(3, dtype=torch.float64), turn)
    ]  # fmt: skip
    torch.testing.assert_close(*(torch.tensor(one.direction_share) for one in results), rtol=0, atol=1e-6)
    assert results[0].direction == results[1].direction
    assert set(results[0].direction) <= {0, 2}


def test_a_value_that_is_zero_to_rounding_is_made_of_nothing():
    base, update = testing.with_spectrum([3.0], 40, 30, seed=1), testing.with_spectrum([1.0], 40, 30, seed=2)
    _, result = attributed(base, Dense(update), k=5)
    assert result.direction[2:] == (None,) * 3
    assert result.direction_share[2:] == result.rest[2:] == (0.0,) * 3
    assert None not in result.direction[:2]


def test_without_a_direction_all_is_rest():
    base = testing.decaying(40, 30, seed=1)
    pair = testing.weight_pair(base, 0.1 * base)
    found = decompose(pair, Request(k=3, method="exact"))
    none = Directions(
        *(torch.zeros(*size, dtype=torch.float64) for size in ((40, 0), (0,), (30, 0))), (40, 30), 0.0, ""
    )
    result = attribution(found.projections, none, pair.update, found.tuned_values, k=3)
    assert (result.directions, result.direction, result.direction_share) == (0, (None,) * 3, (0.0,) * 3)
    assert result.rest == pytest.approx((1 / 11,) * 3, abs=1e-6)
