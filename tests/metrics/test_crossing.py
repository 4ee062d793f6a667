"""The first crossing is found where no grid shows it, and what was not looked into is told."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra import testing
from spectra.engine import dense
from spectra.engine.choose import Request, decompose
from spectra.metrics.crossing import Search, Sight, least_between, sight, steps_to
from spectra.metrics.intruders import intruders, ties
from spectra.updates import LowRank

EPSILON = 0.5


def turning(angle, j=1):
    """A vector in the plane of base directions 0 and 1 of three, at this angle from the first."""
    return torch.tensor([math.cos(angle), math.sin(angle), 0.0], dtype=torch.float64).abs()[:, None].expand(3, j)


def seen(cosines, epsilon=EPSILON):
    return Sight(bool((cosines.amax(0) < epsilon).any()), (cosines,))


def leading(base, dW, k, scale):
    """|cos| of the k leading left vectors of base + scale dW with the base's, both decomposed in full."""
    U0 = torch.linalg.svd(base, full_matrices=False)[0]
    U = torch.linalg.svd(base + scale * dW, full_matrices=False)[0]
    return (U0.T @ U[:, :k]).abs().clamp_max(1)


def drawn(seed, m, n, k, rank, strength):
    generator = torch.Generator().manual_seed(seed)
    base = testing.decaying(m, n, seed=seed).double()
    dW = torch.randn(m, rank, generator=generator).double() @ torch.randn(rank, n, generator=generator).double()
    return base, dW * (strength * torch.linalg.matrix_norm(base, 2) / torch.linalg.matrix_norm(dW, 2))


# --- the bound between two scales


@given(start=st.floats(0, 1.5), turn=st.floats(0, 1.5), part=st.floats(0, 1), seed=st.integers(0, 99))
def test_a_vector_that_turns_straight_stays_above_the_bound(start, turn, part, seed):
    """Anywhere on the arc between two unit vectors; their signs in the base's directions are not known to the bound."""
    generator = torch.Generator().manual_seed(seed)
    first, other = torch.linalg.qr(torch.randn(6, 2, generator=generator, dtype=torch.float64))[0].T
    ends = [math.cos(at) * first + math.sin(at) * other for at in (start, start + turn)]
    inside = math.cos(start + part * turn) * first + math.sin(start + part * turn) * other
    # |cos| alone makes the turn look smaller where a component changes its sign, so signs are given to the test.
    same = ends[0] * ends[1] >= 0
    if bool(same.all()):
        bound = least_between(*(end.abs()[:, None] for end in ends))
        assert float(inside.abs().max()) >= float(bound) - 1e-7


def test_two_that_trade_places_may_pass_below_epsilon_only_where_they_do():
    kept = least_between(turning(0.0), turning(0.2))
    assert float(kept) == pytest.approx(math.cos(0.2))
    traded = least_between(turning(0.0), turning(math.pi / 2))
    assert float(traded) == pytest.approx(0.0, abs=1e-7)


def test_what_lies_outside_the_base_is_taken_as_unturned():
    """Both half outside all base directions: nothing turned that can be seen."""
    half = torch.full((1, 1), 0.5, dtype=torch.float64)
    assert float(least_between(half, half)) == pytest.approx(0.5)


# --- the search


def test_a_stretch_between_two_scales_of_the_grid_is_found():
    """k = 1 of two that trade places at 0.627 within 0.004: midway it is like neither by more than 0.71."""

    def look(scale):
        return seen(turning(math.pi / 4 + math.atan((scale - 0.627) / 0.001) / 2), epsilon=0.75)

    for grid in ([0.0, 1.0], [step / 10 for step in range(11)], [step / 20 for step in range(41)]):
        search = Search(look, {scale: look(scale) for scale in grid}, 0.75)
        assert not any(search.seen[scale].intrudes for scale in grid)
        low, high = search.first(grid)
        assert not look(low).intrudes
        assert look(high).intrudes
        assert high - low <= 1e-4 * high
        assert high == pytest.approx(0.627, abs=1e-3)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 10_000), m=st.integers(8, 24), n=st.integers(8, 24), k=st.integers(2, 6),
    rank=st.integers(1, 3), strength=st.floats(0.5, 2),
)  # fmt: skip
def test_no_scale_of_a_fine_grid_below_it_has_an_intruder(seed, m, n, k, rank, strength):
    """Full decompositions at 400 scales below the crossing, against a search that was given 0, 1 and 2."""
    base, dW = drawn(seed, m, n, k, rank, strength)

    def look(scale):
        return seen(leading(base, dW, k, scale))

    search = Search(look, {0.0: Sight(False, (torch.eye(min(m, n), k, dtype=torch.float64),))}, EPSILON)
    bracket = search.first([0.0, 1.0, 2.0])
    low, high = bracket or (2.0, None)
    fine = torch.linspace(0, low, 402, dtype=torch.float64)[1:-1].tolist()
    assert not any(look(scale).intrudes for scale in fine)
    assert high is None or (look(high).intrudes and not look(low).intrudes and high - low <= 1e-4 * high)
    assert search.resolution <= 2e-4


def test_scales_tried_are_short_decimals():
    tried = []

    def look(scale):
        tried.append(scale)
        return seen(turning(min(scale, math.pi / 4)), epsilon=math.cos(1 / 3))

    search = Search(look, {}, math.cos(1 / 3))
    low, high = search.first([0.0, 1.0])
    assert low < 1 / 3 <= high
    assert all(float(f"{scale:.6g}") == scale for scale in tried)
    assert len(tried) == len(set(tried))


def test_a_crossing_at_once_ends_the_search():
    search = Search(lambda scale: seen(turning(scale and math.pi / 4), epsilon=0.9), {}, 0.9)
    assert search.first([0.0, 1.0]) == (0.0, pytest.approx(1e-6, rel=1))


def test_the_search_stops_where_it_cannot_be_told():
    """Between 1 and 2 nothing is decided: a crossing met at 2 is not narrowed, one that may be there is told."""

    def look(scale):
        if 1 < scale < 2:
            return None
        return seen(turning(math.pi / 4 if scale >= beyond else 0.0), epsilon=0.9)

    beyond = 2
    search = Search(look, {}, 0.9)
    assert search.first([0.0, 1.0, 1.5, 2.0]) == (1.0, 2.0)
    assert search.resolution == 0

    def trading(scale):
        return None if 1 < scale < 2 else seen(turning(math.pi / 2 * (scale >= 2)), epsilon=0.9)

    search = Search(trading, {}, 0.9)
    assert search.first([0.0, 1.0, 2.0, 3.0]) is None
    assert search.resolution == 1.0


def test_a_trade_that_is_too_sudden_is_told_by_the_resolution():
    search = Search(lambda scale: seen(turning(math.pi / 2 * (scale > 0.3)), epsilon=0.9), {}, 0.9)
    assert search.first([0.0, 1.0]) is None
    assert 0 < search.resolution <= 1e-4 * 0.31


def test_the_most_scales_end_the_looking_but_not_the_bracket():
    calls = []

    def look(scale):
        """Below 1 every scale has a base direction of its own, from 1.3 on one that is like none."""
        calls.append(scale)
        if scale >= 1.3:
            return seen(torch.full((100, 1), 0.1), epsilon=0.9)
        return seen(torch.eye(100)[:, [len(calls) if scale < 1 else 0]], epsilon=0.9)

    asked = [0.0, 1.0, 2.0]
    search = Search(look, {scale: look(scale) for scale in asked}, 0.9, most=30)
    low, high = search.first(asked)
    assert search.exhausted
    assert low < 1.3 <= high
    assert high - low <= 1e-4 * high
    assert len(calls) < 60
    assert search.resolution == 0.5


# --- what is seen


@pytest.mark.parametrize(("size", "joined"), [(12, True), (30, False)])
def test_turning_within_a_tie_is_no_turn(size, joined):
    """A cluster of tied base values and an update of noise: its vectors are arbitrary, nothing is to be followed.

    One of 30 in 60 dimensions explains nothing (30 / 60 is above epsilon squared), and is no one direction."""
    base = testing.tied(60, 60, size, seed=0)
    known = dense.svd(base)
    clusters = ties(known.S, base.shape)
    found = []
    for seed in (1, 2):
        pair = testing.weight_pair(base, testing.noise(60, 60, level=1e-7, seed=seed))
        told = decompose(pair, Request(k=4, method="exact"), base=known)
        (side,) = told.resemblances
        verdict = intruders(side, told.tuned_values, told.moved, energy=1.0, k=4)
        found.append((sight([side], [verdict], clusters), side))
    (one, raw), (other, again) = found
    assert one.intrudes is not joined
    assert bool((least_between(one.cosines[0], other.cosines[0]) > 0.99).all()) is joined
    assert bool((least_between(raw.cosines[:, :4], again.cosines[:, :4]) < 0.5).any())


def test_directions_without_a_value_are_left_out():
    base = torch.zeros(20, 20)
    base[0, 0], base[1, 1] = 2.0, 1.0
    pair = testing.weight_pair(base, LowRank(torch.eye(20, 1), 0.1 * torch.eye(1, 20)))
    told = decompose(pair, Request(k=5, method="exact"))
    (side,) = told.resemblances
    verdict = intruders(side, told.tuned_values, told.moved, energy=1.0, k=5)
    assert sight([side], [verdict], ties(told.base_values, pair.shape)).cosines[0].shape[1] == 2


@given(last=st.floats(0.01, 1e4))
def test_steps_lead_to_the_last_scale(last):
    found = steps_to(last)
    assert (found[0], found[-1]) == (0.0, last)
    assert all(0 < high - low <= max(0.2, 0.1 * low) + 1e-6 for low, high in pairwise(found))
