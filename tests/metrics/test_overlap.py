"""Two updates with directions in common: by hand, against random spaces, and at angles a cosine does not show."""

import json
import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectra import table, testing
from spectra.engine.update_directions import update_directions
from spectra.metrics.overlap import MOST, Overlap, alignment, chance, gap_at, phi, principal_angles, shared
from spectra.updates import Dense, LowRank

U = testing.orthogonal(40, 12, seed=1)


def low_rank(m, n, rank, seed):
    generator = torch.Generator().manual_seed(seed)
    B, A = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in ((m, rank), (rank, n)))
    return LowRank(B, A)


def test_phi_by_hand():
    """The first direction is common, the second of one is the third of the other."""
    found = phi(U[:, [0, 1, 2]], U[:, [0, 5, 1]])
    assert found.tolist() == pytest.approx(
        [pytest.approx(row, abs=1e-12) for row in ([1, 1, 1], [1, 0.5, 1], [1, 0.5, 2 / 3])]
    )


def test_phi_of_a_space_within_another_is_one():
    assert phi(U[:, :3], U[:, :8])[2, 7] == pytest.approx(1)
    assert phi(U[:, :3], U[:, 3:9]).max() == pytest.approx(0, abs=1e-12)


@given(a=st.integers(1, 6), b=st.integers(1, 6), seed=st.integers(0, 99))
def test_phi_is_symmetric_and_takes_no_notice_of_rotation_or_sign(a, b, seed):
    V = testing.orthogonal(40, b, seed=seed)
    one, turn = phi(U[:, :a], V), testing.orthogonal(40, 40, seed=seed + 1)
    assert torch.allclose(one, phi(V, U[:, :a]).T)
    assert torch.allclose(one, phi(turn @ U[:, :a], -(turn @ V)))
    assert bool(((one >= 0) & (one <= 1)).all())


@pytest.mark.parametrize(("m", "i", "j"), [(20, 3, 5), (50, 4, 4), (9, 8, 3), (6, 6, 2)])
def test_chance_is_what_random_spaces_share(m, i, j):
    drawn = [
        float(phi(testing.orthogonal(m, i, seed=2 * seed), testing.orthogonal(m, j, seed=2 * seed + 1))[-1, -1])
        for seed in range(800)
    ]
    mean, deviation = chance(m, i, j)
    assert mean == pytest.approx(statistics.mean(drawn), abs=4 * deviation / 800**0.5 + 1e-12)
    assert deviation == pytest.approx(statistics.stdev(drawn), rel=0.12, abs=1e-12)


def test_chance_of_single_directions_in_space_is_known():
    """The squared cosine of a random angle in R^3 has mean 1/3 and variance 4/45."""
    assert chance(3, 1, 1) == pytest.approx((1 / 3, (4 / 45) ** 0.5))


@pytest.mark.parametrize("angle", [0.0, 1e-12, 1e-7, 0.3, 0.8, 1.2, math.pi / 2])
def test_angles_are_accurate_at_both_ends(angle):
    turned = U[:, :3].clone()
    turned[:, 1] = math.cos(angle) * U[:, 1] + math.sin(angle) * U[:, 7]
    found = principal_angles(U[:, :3], turned)
    assert found.tolist() == pytest.approx([0, 0, angle], rel=1e-6, abs=1e-14)


def test_angles_of_spaces_of_unlike_size():
    found = principal_angles(U[:, :6], U[:, 4:8])
    assert found.tolist() == pytest.approx([0, 0, math.pi / 2, math.pi / 2], abs=1e-7)
    assert torch.allclose(found, principal_angles(U[:, 4:8], U[:, :6]))


@pytest.mark.parametrize("kinds", [(False, False), (True, False), (False, True), (True, True)])
def test_the_cosine_is_that_of_the_products(kinds):
    one, other = low_rank(30, 20, 3, 1), low_rank(30, 20, 5, 2)
    given = [Dense(update.dense()) if dense else update for update, dense in zip((one, other), kinds, strict=True)]
    flat = [update.dense().flatten() for update in (one, other)]
    found = alignment(*given)
    assert (found.first, found.second) == pytest.approx([float(each.norm()) for each in flat])
    assert found.cosine == pytest.approx(float(torch.nn.functional.cosine_similarity(*flat, dim=0)))


def test_an_update_and_its_opposite():
    one = low_rank(30, 20, 3, 3)
    found = alignment(one, LowRank(-2 * one.B, one.A))
    assert (found.cosine, found.second / found.first) == pytest.approx((-1, 2))


def test_the_gauge_of_the_factors_is_no_matter():
    one, other = low_rank(30, 20, 3, 4), low_rank(30, 20, 4, 5)
    mix = torch.eye(3, dtype=torch.float64) + 0.3 * torch.ones(3, 3, dtype=torch.float64)
    gauged = LowRank(one.B @ mix, torch.linalg.inv(mix) @ one.A)
    before, after = (shared(update_directions(each), update_directions(other), "right", 3) for each in (one, gauged))
    assert after.shared == pytest.approx(before.shared)
    assert after.angles == pytest.approx(before.angles)
    assert alignment(gauged, other).cosine == pytest.approx(alignment(one, other).cosine)


def test_sides_swap_with_transposition():
    one, other = low_rank(30, 20, 3, 6), low_rank(30, 20, 3, 7)
    turned = [LowRank(update.A.T.contiguous(), update.B.T.contiguous()) for update in (one, other)]
    left = shared(update_directions(one), update_directions(other), "left", 2)
    right = shared(*map(update_directions, turned), "right", 2)
    assert left.shared == pytest.approx(right.shared)
    assert left.chance == right.chance == pytest.approx(2 / 30)


def test_the_map_ends_at_its_most():
    one = low_rank(120, 100, MOST + 6, 8)
    found = shared(update_directions(one), update_directions(one), "left", 5)
    assert (len(found.phi), len(found.phi[0]), found.shared) == (MOST, MOST, pytest.approx(1))
    assert max(found.angles) < 1e-7


def test_the_gap_says_whether_a_leading_space_is_one():
    values = torch.tensor([4.0, 2.0, 2.0, 1.0])
    assert [gap_at(values, k, whole=False) for k in (0, 1, 2, 3, 4)] == [None, 0.5, 0.0, 0.5, None]
    assert gap_at(values, 4, whole=True) == 1.0


def test_a_row_is_a_mapping_that_json_can_hold():
    one, other = low_rank(30, 20, 3, 9), low_rank(30, 20, 3, 10)
    sides = tuple(shared(update_directions(one), update_directions(other), side, 2) for side in ("left", "right"))
    row = Overlap("a.0.b.weight", "a.0.b.weight", None, (30, 20), "ok", "", 2, sides=sides)
    assert json.loads(table.to_json(row)).keys() == set(row)
    assert row["right"]["shared"] == row.side("right").shared
    assert (row["block"], row["module"], row["alignment"]) == (0, "b", None)
    assert "left 0." in repr(row)
