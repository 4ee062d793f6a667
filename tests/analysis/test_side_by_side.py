"""Two models over the matrices that both change, with planted counts, sizes and ranks."""

import dataclasses

import pytest
import torch

from spectra import testing
from spectra.analysis.comparison import compare
from spectra.analysis.settings import Settings
from spectra.analysis.side_by_side import Tally, side_by_side, size_beside
from spectra.metrics.intruders import SWEEP_EPSILON

SHAPE = (96, 96)
NAMES = ("a.weight", "b.weight")


def spiked(W0, strength, number=1, seed=5):
    """A weight with some new directions, each stronger than all of the base's."""
    U, V = (torch.linalg.qr(testing.noise(96, number, level=1.0, seed=at).double())[0] for at in (seed, seed + 1))
    return (W0 + strength * W0.norm() * U @ V.T).float()


@pytest.fixture(scope="module")
def models():
    """Of two matrices: "many" has four new directions in each, "few" one in the first alone; both known by hand."""
    base = {name: testing.decaying(*SHAPE, seed=at).float() for at, name in enumerate(NAMES)}
    many = {name: spiked(weight, 1.0, 4) for name, weight in base.items()}
    few = {"a.weight": spiked(base["a.weight"], 0.5), "b.weight": base["b.weight"]}
    return compare(base, {"many": many, "few": few, "none": base}).models


def test_only_what_both_change_is_compared(models):
    found = side_by_side(models, "many", "few")
    assert (found.matrices, found.examined) == (1, 10)
    assert found.intruders == (4, 1)
    assert models["many"].summary["new"] + models["many"].summary["rotated"] == 8
    assert found.order == "more"
    assert side_by_side(models, "few", "many").order == "fewer"


def test_models_without_a_matrix_in_common_are_not_compared(models):
    assert side_by_side(models, "many", "none") is None
    assert size_beside(models["many"], models["none"]) is None


def test_the_size_is_that_of_the_same_matrices(models):
    """Four unit directions of one strength have twice the norm of one; that one is half as strong."""
    found = side_by_side(models, "many", "few")
    assert found.size == pytest.approx(4.0, rel=1e-4)
    assert size_beside(models["many"], models["few"]) == found.size
    assert side_by_side(models, "few", "many").size == pytest.approx(0.25, rel=1e-4)


def test_ranks_are_those_of_the_updates(models):
    found = side_by_side(models, "many", "few")
    assert found.effective == pytest.approx((4.0, 1.0), abs=0.05)
    assert found.error == (0.0, 0.0)
    assert found.above_floor == (4.0, 1.0)


def test_values_above_rounding_are_unknown_where_those_of_a_matrix_are(models):
    many, few = models["many"], models["few"]
    ranks = dataclasses.replace(many.rows[0].rank, above_floor=None)
    packed = dataclasses.replace(many, rows=[dataclasses.replace(many.rows[0], rank=ranks), *many.rows[1:]])
    assert side_by_side({"many": packed, "few": few}, "many", "few").above_floor == (None, 1.0)


def test_the_order_is_counted_at_every_threshold_and_every_k(models):
    """Against the counts of the rows themselves, and the two directions mirror each other."""
    found = side_by_side(models, "many", "few")
    (ours,), (theirs,) = (models[name].rows[0].intruders for name in ("many", "few"))
    pairs = [(ours.sweep[3][at], theirs.sweep[3][at]) for at in range(len(SWEEP_EPSILON))]  # k = 10
    more, equal = sum(a > b for a, b in pairs), sum(a == b for a, b in pairs)
    assert found.over_epsilon == Tally(more, equal, len(pairs) - more - equal, 0)
    assert found.over_k.total == 10
    other = side_by_side(models, "few", "many")
    assert (other.over_epsilon.fewer, other.over_epsilon.more) == (
        found.over_epsilon.more,
        found.over_epsilon.fewer,
    )
    same = side_by_side({"x": models["many"], "y": models["many"]}, "x", "y")
    assert (same.over_epsilon.equal, same.over_k.equal, same.order) == (19, 10, "equal")


def test_an_order_that_the_intervals_leave_open_is_not_decided(models):
    """With every similarity known to lie in [0, 1] alone, nothing is."""
    vague = [
        dataclasses.replace(
            row,
            intruders=tuple(
                dataclasses.replace(side, similarity=(0.0,) * 10, similarity_bound=(1.0,) * 10)
                for side in row.intruders
            ),
        )
        for row in models["many"].rows
    ]
    unsure = {"vague": dataclasses.replace(models["many"], rows=tuple(vague)), "few": models["few"]}
    found = side_by_side(unsure, "vague", "few")
    assert found.over_epsilon.open == 19
    assert found.over_k.open == 10


def test_both_sides_are_summed(models):
    base = {name: testing.decaying(*SHAPE, seed=at).float() for at, name in enumerate(NAMES)}
    tuned = {name: spiked(weight, 1.0, 2) for name, weight in base.items()}
    found = compare(base, {"x": tuned, "y": tuned}, settings=Settings(side="both")).models
    assert side_by_side(found, "x", "y").examined == 2 * 2 * 10
