"""Planted truth: matrices in which every number of a row is known, by each path of the engine."""

import dataclasses

import pytest
import torch

from spectra import testing
from spectra.engine.choose import Request, decompose
from spectra.engine.resemblance import SIDES
from spectra.metrics.layer import measure
from spectra.updates import LowRank

METHODS = ("exact", "certified", "basis")
LEADS = (8.0, 2.5, 1.5)  # the base's own leading values; what it has beside them is small
TAIL = (0.3, 0.1)
WIDTH = 40  # base directions that a plant is spread over
COSINES = ((0.2, 0.25), (0.4, 0.3), (0.7, 0.9))  # of each plant with the base vector most like it: left, right
STRENGTHS = (7.0, 5.0, 3.0)
SHAPE = (240, 200)
K = 4


def spread(cosine):
    """A unit vector over WIDTH axes, of this cosine with the first of them and less with each other one."""
    rest = ((1 - cosine**2) / (WIDTH - 1)) ** 0.5
    signs = torch.tensor([1.0 if place % 3 else -1.0 for place in range(WIDTH - 1)], dtype=torch.float64)
    return torch.cat([torch.tensor([cosine], dtype=torch.float64), rest * signs])


def axes(place):
    """The base directions that a plant is spread over, the one most like it first: of the last plant a leading one."""
    own = list(range(len(LEADS) + place * WIDTH, len(LEADS) + (place + 1) * WIDTH))
    return [1, *own[1:]] if place == len(COSINES) - 1 else own


@dataclasses.dataclass(frozen=True)
class Planted:
    """W0 and dW with `W = (1 - X X^T) W0 (1 - Y Y^T) + X diag(strengths) Y^T`: each x, y is a singular pair of W."""

    base: torch.Tensor
    update: LowRank
    own: tuple[float, ...]  # x_c . W0 y_c

    @property
    def energy(self):
        return float(self.update.dense().square().sum())


def planted():
    m, n = SHAPE
    p, count = min(SHAPE), len(COSINES)
    tail = torch.linspace(*TAIL, p - len(LEADS), dtype=torch.float64)
    S = torch.cat([torch.tensor(LEADS, dtype=torch.float64), tail])
    U, V = testing.orthogonal(m, p, seed=1), testing.orthogonal(n, p, seed=2)
    base = (U * S) @ V.T
    X, Y = torch.zeros(p, count, dtype=torch.float64), torch.zeros(p, count, dtype=torch.float64)
    for place, cosines in enumerate(COSINES):
        X[axes(place), place], Y[axes(place), place] = map(spread, cosines)
    theta = torch.tensor(STRENGTHS, dtype=torch.float64)
    X, Y = U @ X, V @ Y
    # dW = X (theta + X^T W0 Y) Y^T - X X^T W0 - W0 Y Y^T, in factors of rank 2 c.
    inside = X.T @ base @ Y
    B = torch.cat([X, base @ Y], 1)
    A = torch.cat([(torch.diag(theta) + inside) @ Y.T - X.T @ base, -Y.T])
    return Planted(base, LowRank(B, A), tuple(inside.diagonal().tolist()))


PLANTED = planted()
ORDER = sorted([*LEADS, *STRENGTHS], reverse=True)[:K]
PLACES = [ORDER.index(theta) for theta in STRENGTHS]


def measured(base, update, method, *, dense=False, k=K, **options):
    update = update.dense() if dense else update
    pair = testing.weight_pair(base, update, **options)
    return measure(pair, decompose(pair, Request(k=k, method=method, sides=SIDES)), k=k)


@pytest.fixture(scope="module", params=[(method, dense) for method in METHODS for dense in (False, True)], ids=str)
def row(request):
    method, dense = request.param
    found = measured(PLANTED.base, PLANTED.update, method, dense=dense)
    assert found.method == method or (method, dense) == ("certified", True)  # that leaves a vector open here
    return found


def test_sigma_is_the_strength_that_was_planted(row):
    for side in row.intruders:
        assert side.sigma == pytest.approx(ORDER, rel=1e-5)


@pytest.mark.parametrize("side", [0, 1])
def test_similarity_is_the_cosine_that_was_planted(row, side):
    """On a path with intervals the truth lies inside; each lead stays the base's own."""
    block = row.intruders[side]
    for place, cosines in zip(PLACES, COSINES, strict=True):
        assert block.similarity[place] - 2e-3 <= cosines[side] <= block.similarity_bound[place] + 2e-3
        assert block.nearest[place] in (None, axes(PLACES.index(place))[0])
    kept = [place for place in range(len(ORDER)) if place not in PLACES]
    assert min(block.similarity[place] for place in kept) > 0.99


def test_an_exact_similarity_is_that_cosine():
    row = measured(PLANTED.base, PLANTED.update, "exact")
    for side, block in enumerate(row.intruders):
        found = [block.similarity[place] for place in PLACES]
        assert found == pytest.approx([cosines[side] for cosines in COSINES], abs=2e-3)


@pytest.mark.parametrize("side", [0, 1])
def test_the_plants_below_epsilon_are_new(row, side):
    block = row.intruders[side]
    assert block.count == block.new == 2
    assert [block.verdict[place] for place in PLACES] == ["new", "new", "kept"]
    known = [
        sum(float(part) ** 2 for axis, part in zip(axes(c), spread(cosines[side]), strict=True) if axis < block.novelty_span)
        for c, cosines in enumerate(COSINES)
    ]  # fmt: skip
    assert [1 - block.novelty[place] for place in PLACES] == pytest.approx(known, abs=5e-3)


def test_shares_and_energy_are_known(row):
    shares = [1 - own / theta for own, theta in zip(PLANTED.own, STRENGTHS, strict=True)]
    energy = sum((theta - own) ** 2 for own, theta in zip(PLANTED.own[:2], STRENGTHS[:2], strict=True))
    for block in row.intruders:
        assert [block.update_share[place] for place in PLACES] == pytest.approx(shares, abs=1e-4)
        assert block.energy_share == pytest.approx(energy / PLANTED.energy, rel=1e-3)


def test_each_plant_is_attributed_to_its_own_direction(row):
    """dW has the plants as its three strongest directions; the leads of the base have no part in it."""
    found = row.attribution
    assert [found.direction[place] for place in PLACES] == [0, 1, 2]
    dW = PLANTED.update.dense()
    a, s, bh = torch.linalg.svd(dW, full_matrices=False)
    U, S, Vh = torch.linalg.svd(PLANTED.base + dW, full_matrices=False)
    for place, one in zip(PLACES, range(3), strict=True):
        term = float((U[:, place] @ a[:, one]) * s[one] * (bh[one] @ Vh[place]) / S[place])
        assert found.direction_share[place] == pytest.approx(term, abs=1e-3)
        assert term > 0.4
    kept = [place for place in range(len(ORDER)) if place not in PLACES]
    assert max(abs(found.direction_share[place]) for place in kept) < 1e-3
    assert max(map(abs, found.rest)) < 1e-3


def test_the_amplification_is_that_of_its_definition(row):
    dW = PLANTED.update.dense()
    a, s, bh = torch.linalg.svd(dW, full_matrices=False)
    q = row.amplification.rank
    assert q == 6
    within = torch.linalg.norm(a[:, :q].T @ PLANTED.base @ bh[:q].T)
    assert row.amplification.factor == pytest.approx(float(s[:q].norm() / within), rel=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_the_update_has_the_rank_that_was_planted(method):
    row = measured(PLANTED.base, PLANTED.update, method)
    assert row.rank.above_floor == 2 * len(COSINES)
    assert row.norm.update == pytest.approx(PLANTED.energy**0.5, rel=1e-5)


# --- what fakes intruders


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [2, 3, 8, 16, 32, 64])
def test_a_tied_cluster_under_noise_has_degenerate_vectors_alone(method, size):
    base = testing.tied(256, 256, size, seed=size)
    row = measured(base, testing.noise(256, 256, level=1e-6, seed=1), method, k=10)
    for block in row.intruders:
        assert block.count == block.degenerate
        assert (block.rotated, block.new) == (0, 0)
        assert size < 64 or block.count == 10


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("seed", range(3))
def test_an_update_within_the_bases_top_space_only_rotates(method, seed):
    base = testing.decaying(160, 128, seed=seed)
    row = measured(base, testing.rotate_top(base, seed=seed), method, k=10)
    for block in row.intruders:
        assert block.count == block.rotated > 0
        assert max(block.novelty) < 1e-5


# --- what rounding leaves


@pytest.mark.parametrize("method", METHODS)
def test_a_round_trip_through_bfloat16_has_rank_zero_above_the_floor(method):
    base = testing.rounded(testing.decaying(200, 160, seed=1).float(), torch.float32)
    kept = testing.rounded(base, torch.bfloat16)
    row = measured(base, kept - base, method, k=6, dtype="bfloat16")
    assert row.rank.above_floor == 0
    assert row.rank.effective > 100


@pytest.mark.parametrize("method", METHODS)
def test_a_rank_8_update_merged_in_bfloat16_has_rank_8_above_the_floor(method):
    base = testing.rounded(testing.noise(256, 192, level=1.0, seed=1).float(), torch.bfloat16)
    planted_ = testing.with_spectrum(torch.linspace(1.2, 0.5, 8), 256, 192, seed=3).float()
    merged = testing.rounded(base + planted_, torch.bfloat16)
    row = measured(base, merged - base, method, k=6, dtype="bfloat16")
    assert row.rank.above_floor == 8
    assert row.rank.numerical > 150


# --- what has none


@pytest.mark.parametrize("p", [1, 2, 3, 4])
@pytest.mark.parametrize("method", METHODS)
def test_a_square_of_four_has_no_intruder_at_a_half(method, p):
    base = testing.decaying(p, p, seed=p)
    for seed in range(20):
        row = measured(base, testing.noise(p, p, level=10.0, seed=seed), method, k=10)
        assert [block.count for block in row.intruders] == [0, 0]
