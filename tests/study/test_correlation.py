"""The study's statistics against their definitions and against scipy."""

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from benchmarks.study.correlation import PREDICTORS, correlations, partial, spearman
from benchmarks.study.summary import at_task_loss

NUMBERS = st.lists(st.integers(-5, 5), min_size=4, max_size=30)


def row(rank, seed, forgetting, norm, intruders):
    counts = {"count": intruders, "new": intruders, "rotated": 0, "degenerate": 0}
    numbers = dict.fromkeys(("energy_share", "spectral_ratio", "effective_rank", "least_similarity"), 1.0)
    return {
        "task": "t", "method": "lora", "rank": rank, "alpha": 1.0, "learning_rate": 1.0, "seed": seed,
        "forgetting": forgetting, "task_loss": 1.0,
        "spectra": {"counts": counts, "update_over_base": norm, **numbers},
    }  # fmt: skip


@given(NUMBERS, st.randoms())
@settings(max_examples=60, deadline=None)
def test_spearman_is_scipys(x, random):
    y = random.sample(x, len(x))
    found = spearman(numpy.asarray(x, float), numpy.asarray(y, float))
    if len(set(x)) == 1:
        assert found is None
    else:
        assert found == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_partial_is_the_correlation_at_a_third_number_held_fixed():
    """By the formula for one control, and for two by that of the first order applied twice."""

    def first(xy, xg, yg):
        return (xy - xg * yg) / ((1 - xg**2) * (1 - yg**2)) ** 0.5

    draw = numpy.random.default_rng(0)
    x, y, one, two = (draw.integers(12, size=40).astype(float) for _ in range(4))
    rho = {pair: spearman(*pair_of) for pair, pair_of in {
        "xy": (x, y), "x1": (x, one), "y1": (y, one), "x2": (x, two), "y2": (y, two), "12": (one, two)}.items()}  # fmt: skip
    at_one = {"xy": first(rho["xy"], rho["x1"], rho["y1"]), "x2": first(rho["x2"], rho["x1"], rho["12"])}
    at_one["y2"] = first(rho["y2"], rho["y1"], rho["12"])
    assert partial(x, y, one) == pytest.approx(at_one["xy"], abs=1e-12)
    assert partial(x, y, one, two) == pytest.approx(first(at_one["xy"], at_one["x2"], at_one["y2"]), abs=1e-12)
    assert partial(x, y, one, two) == pytest.approx(partial(x, y, two, one), abs=1e-12)
    assert partial(x, y, x) is None
    assert partial(x, y, one, y) is None


def test_the_number_that_orders_forgetting_wins_and_constants_do_not_count():
    draw = numpy.random.default_rng(1)
    rows = [
        row(rank, seed, forgetting=rank + 0.1 * seed, norm=rank + 0.1 * seed, intruders=int(draw.integers(100)))
        for rank in range(1, 9)
        for seed in range(3)
    ]
    found = correlations(rows, draws=200)
    assert found["update norm"]["rho"] == pytest.approx(1)
    assert found["update norm"]["wins"] > 0.99
    assert found["update norm"]["configurations"] == 8
    assert found["effective rank"]["rho"] is None
    assert found["critical scale"]["n"] == 0
    assert set(found) == set(PREDICTORS)
    assert found["update norm"]["given_update_norm"] is None
    assert found["intruders"]["given_task_loss"] == pytest.approx(found["intruders"]["rho"])  # it does not vary


def test_seeds_are_resampled_together():
    """Ten equal seeds of a configuration are no more evidence than one: the interval does not narrow."""
    mixed = [row(rank, 0, float(rank), float(norm), 0) for rank, norm in enumerate([1, 2, 3, 9, 5, 6, 7, 4])]
    once = correlations(mixed, draws=300)["update norm"]["interval"]
    copied = correlations([one | {"seed": seed} for one in mixed for seed in range(10)], draws=300)
    tenfold = copied["update norm"]["interval"]
    assert tenfold[1] - tenfold[0] == pytest.approx(once[1] - once[0], abs=0.25)


def test_a_path_is_read_between_two_looks():
    path = [
        {"task_loss": 3.0, "general_loss": 1.0},
        {"task_loss": 2.0, "general_loss": 1.5},
        {"task_loss": 1.0, "general_loss": 2.5},
    ]
    assert at_task_loss(path, 2.5) == pytest.approx(1.25)
    assert at_task_loss(path, 1.0) == pytest.approx(2.5)
    assert at_task_loss(path, 0.9) is None
    assert at_task_loss(path, 3.1) is None
