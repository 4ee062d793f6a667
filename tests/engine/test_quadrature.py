"""Estimated ranks carry error bars that hold the truth, and are exact where quadrature is."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectra import testing
from spectra.engine.krylov import Operator
from spectra.engine.quadrature import Products, estimate
from spectra.metrics.ranks import estimated_ranks, ranks
from spectra.updates import LowRank, Rescaled

SHAPE = (200, 260)
NAMES = ("effective", "stable", "participation", "energy_90", "energy_95", "energy_99", "numerical", "above_floor")
FLOOR = 0.1
SEEDS = 20
ROUNDING = 3e-5  # of products in float32


def order(count):
    return torch.arange(1, count + 1, dtype=torch.float64)


def with_noise(leading, level, seed):
    """A few large values before those of a random matrix."""
    noise = torch.linalg.svdvals(testing.noise(200, 260, level=level, seed=seed))
    return torch.cat([torch.linspace(3, 1, leading, dtype=torch.float64), noise[: 200 - leading]])


SPECTRA = {
    "flat": torch.ones(200, dtype=torch.float64),
    "slow decay": order(200) ** -0.7,
    "fast decay": order(200) ** -1.5,
    "exponential": torch.exp(-order(200) / 20),
    "random": torch.linalg.svdvals(testing.noise(200, 260, level=1.0, seed=1)),
    "low rank and noise": with_noise(24, 0.1, seed=2),
    "low rank and little noise": with_noise(8, 0.002, seed=3),
    "low rank": torch.linspace(3, 1, 20, dtype=torch.float64),
}


def matrix(values, shape=SHAPE, seed=0):
    return testing.with_spectrum(values, *shape, seed=seed).float()


def quadrature(W, **options):
    return estimate(Operator(W[None]), W.double().square().sum().item(), **options)


def covered(true, found, name):
    value, error = getattr(found, name), getattr(found.error, name)
    return abs(value - getattr(true, name)) <= error + ROUNDING * abs(value)


@pytest.mark.parametrize("kind", SPECTRA)
def test_error_bars_hold_the_truth_in_nine_of_ten_seeds(kind):
    W = matrix(SPECTRA[kind])
    true = ranks(torch.linalg.svdvals(W.double()), SHAPE, floor=FLOOR)
    found = [estimated_ranks(quadrature(W, seed=seed), SHAPE, floor=FLOOR) for seed in range(SEEDS)]
    for name in NAMES:
        share = sum(covered(true, one, name) for one in found) / SEEDS
        assert share >= 0.9, (name, getattr(true, name), [(getattr(one, name)) for one in found])


@pytest.mark.parametrize(
    ("kind", "name", "most"),
    [
        ("slow decay", "effective", 0.05),
        ("random", "effective", 0.05),
        ("low rank and noise", "effective", 0.1),
        ("low rank and little noise", "effective", 0.1),
        ("random", "energy_90", 0.1),
        ("low rank", "numerical", 0.1),
    ],
)
def test_error_bars_are_of_use(kind, name, most):
    """An interval of any width would hold the truth."""
    found = estimated_ranks(quadrature(matrix(SPECTRA[kind])), SHAPE, floor=FLOOR)
    assert getattr(found.error, name) <= most * getattr(found, name)


def test_a_flat_spectrum_is_known_exactly():
    found = estimated_ranks(quadrature(matrix(SPECTRA["flat"])), SHAPE, floor=FLOOR)
    assert (found.effective, found.stable, found.participation) == pytest.approx((200, 200, 200), rel=ROUNDING)
    assert (found.energy_90, found.energy_99, found.numerical, found.above_floor) == (180, 198, 200, 200)
    assert max(found.error.effective, found.error.stable, found.error.participation) < 1e-2
    assert {found.error.energy_90, found.error.numerical, found.error.above_floor} == {0}


def test_a_rank_below_the_leading_values_is_known_exactly():
    values = torch.tensor([4.0, 3.0, 2.0, 1.0])
    found = estimated_ranks(quadrature(matrix(values)), SHAPE, floor=1.5)
    true = ranks(values, SHAPE, floor=1.5)
    assert found.effective == pytest.approx(true.effective, rel=1e-3)
    assert (found.energy_90, found.energy_99) == (true.energy_90, true.energy_99)
    assert (found.numerical, found.above_floor) == (4, 3)
    assert found.error.effective < 1e-2
    assert (found.error.numerical, found.error.above_floor) == (0, 0)


@settings(max_examples=8)
@given(exponent=st.integers(-25, 25), seed=st.integers(0, 100))
def test_ranks_do_not_depend_on_the_scale(exponent, seed):
    W, scale = matrix(SPECTRA["slow decay"], seed=seed), 2.0**exponent
    one = estimated_ranks(quadrature(W), SHAPE, floor=FLOOR)
    other = estimated_ranks(quadrature(W * scale), SHAPE, floor=FLOOR * scale)
    for name in NAMES:
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-4), name
        assert getattr(one.error, name) == pytest.approx(getattr(other.error, name), rel=0.02, abs=1e-4), name


def test_a_matrix_and_its_transpose_have_the_same_ranks():
    """Both are worked on from the smaller side."""
    W = matrix(SPECTRA["random"])
    one, other = (estimated_ranks(quadrature(part), SHAPE, floor=FLOOR) for part in (W, W.T.contiguous()))
    for name in NAMES:
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-4), name


@pytest.mark.parametrize("kind", SPECTRA)
def test_a_rotation_leaves_the_intervals_overlapping(kind):
    one, other = (estimated_ranks(quadrature(matrix(SPECTRA[kind], seed=seed)), SHAPE, floor=FLOOR) for seed in (5, 6))
    for name in NAMES:
        apart = abs(getattr(one, name) - getattr(other, name))
        both = getattr(one.error, name) + getattr(other.error, name)
        assert apart <= 1.5 * both + ROUNDING * getattr(one, name), name


def test_a_seed_decides_everything():
    W = matrix(SPECTRA["slow decay"])
    first, again, other = (quadrature(W, seed=seed).effective() for seed in (1, 1, 2))
    assert first == again
    assert abs(first.value - other.value) > 0.01 * first.error, "the probes are others, not the deflated space alone"


def test_more_probes_narrow_the_interval():
    W = matrix(SPECTRA["slow decay"])
    few, many = (
        sum(quadrature(W, probes=probes, seed=seed).effective().error for seed in range(6)) for probes in (8, 64)
    )
    assert many < few / 2


def test_more_steps_narrow_what_a_rule_leaves():
    """The number of values above a threshold inside the bulk."""
    W = matrix(SPECTRA["random"])
    few, many = (quadrature(W, steps=steps).count(0.5).error for steps in (8, 60))
    assert many < few / 2


def test_a_count_is_monotone_in_its_threshold():
    found = quadrature(matrix(SPECTRA["random"]))
    counts = [found.count(threshold).value for threshold in (1e-3, 0.2, 0.4, 0.6, 0.8, 0.95, 1.1)]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (200, 0)


def test_a_structure_is_measured_by_its_products_alone(monkeypatch):
    base = testing.decaying(200, 260, seed=1).float()
    B, A = testing.lora({"w.weight": base}, ["w"], rank=3, seed=2)["w"]
    update = Rescaled(base, LowRank(B, A), torch.linspace(0.5, 1.5, 200))
    whole = update.dense()
    expected = quadrature(whole)
    monkeypatch.setattr(Rescaled, "dense", lambda _: pytest.fail("the update was formed"))
    for products, shape in ((Products(update, base), (1, 200, 260)), (Products(update, base, True), (1, 260, 200))):
        assert products.shape == shape
        found = estimate(products, whole.double().square().sum().item())
        assert found.effective().value == pytest.approx(expected.effective().value, rel=1e-3)
        torch.testing.assert_close(found.values, expected.values, rtol=1e-4, atol=1e-6)


def test_the_leading_values_are_those_of_the_matrix():
    W = matrix(SPECTRA["slow decay"])
    found = quadrature(W)
    assert len(found.values) == 10
    torch.testing.assert_close(found.values, torch.linalg.svdvals(W.double())[:10], rtol=1e-4, atol=0)
    assert math.isclose(found.energy, float(W.double().square().sum()))
