"""Every rank of an update, on spectra whose answer is known."""

import math
from dataclasses import fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectra import testing
from spectra.engine.krylov import Operator
from spectra.engine.quadrature import estimate
from spectra.metrics.ranks import estimated_ranks, ranks

VALUES = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=30).map(lambda values: sorted(values, reverse=True))


def of(values, floor=0.0, **options):
    return ranks(torch.tensor(values, dtype=torch.float64), (100, 80), floor=floor, **options)


@pytest.mark.parametrize("n", [1, 2, 7, 64])
def test_a_flat_spectrum_has_full_rank_in_every_sense(n):
    found = of([3.0] * n)
    assert found.effective == pytest.approx(n)
    assert found.stable == pytest.approx(n)
    assert found.participation == pytest.approx(n)
    assert found.numerical == found.above_floor == n
    assert (found.energy_90, found.energy_95, found.energy_99) == tuple(
        math.ceil(round(share * n, 9)) for share in (0.9, 0.95, 0.99)
    )


def test_a_single_value_has_rank_one_in_every_sense():
    found = of([5.0, 0.0, 0.0])
    assert (found.effective, found.stable, found.participation) == pytest.approx((1, 1, 1))
    assert {found.energy_90, found.energy_95, found.energy_99, found.numerical, found.above_floor} == {1}


def test_effective_rank_is_the_exponential_of_the_entropy():
    """Roy and Vetterli 2007 on s = (3, 1): p = (3/4, 1/4)."""
    assert of([3.0, 1.0]).effective == pytest.approx(4 / 3**0.75)


def test_stable_rank_and_participation_by_hand():
    found = of([2.0, 1.0, 1.0])
    assert found.stable == pytest.approx(6 / 4)
    assert found.participation == pytest.approx(36 / 18)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3.0, 1.0], (1, 2, 2)),  # 90 % of 10 is 9: one direction holds exactly that
        ([10.0, 1.0, 1.0], (1, 1, 2)),
        ([1.0, 1.0, 1.0, 1.0, 0.01], (4, 4, 4)),
    ],
)
def test_an_energy_rank_is_the_fewest_directions_that_hold_the_share(values, expected):
    found = of(values)
    assert (found.energy_90, found.energy_95, found.energy_99) == expected


def test_numerical_rank_ends_at_eps_times_the_larger_side():
    limit = torch.finfo(torch.float32).eps * 100
    assert of([1.0, 1.01 * limit, 0.99 * limit]).numerical == 2


def test_a_value_at_the_floor_is_not_above_it():
    assert of([4.0, 2.0, 1.0], floor=2.0).above_floor == 1
    assert of([4.0, 2.0, 1.0], floor=0.0).above_floor == 3
    assert of([4.0], floor=9.0).above_floor == 0


def test_where_the_floor_is_unknown_so_is_what_stands_above_it():
    assert of([4.0, 2.0], floor=None).above_floor is None
    assert of([4.0, 2.0], floor=None).numerical == 2
    W = testing.with_spectrum(torch.linspace(1, 2, 160), 160, 160, seed=1).float()
    found = estimated_ranks(estimate(Operator(W[None]), W.double().square().sum().item()), (160, 160))
    assert found.above_floor is found.error.above_floor is None
    assert found.effective > 100


@pytest.mark.parametrize("values", [[], [0.0], [0.0, 0.0]])
def test_a_zero_update_has_rank_zero_in_every_sense(values):
    found = of(values, allotted=8)
    assert (found.effective, found.stable, found.participation) == (0, 0, 0)
    assert {found.energy_90, found.energy_95, found.energy_99, found.numerical, found.above_floor} == {0}
    assert (found.allotted, found.utilisation) == (8, 0.0)
    assert of(values).utilisation is None


def test_utilisation_is_effective_over_allotted():
    found = of([1.0, 1.0, 0.0, 0.0], allotted=4)
    assert found.utilisation == pytest.approx(0.5)
    assert of([1.0]).utilisation is None


def test_known_values_carry_no_error():
    assert of([3.0, 1.0]).error is None


def test_an_estimate_fills_every_rank_with_its_error():
    """The ranks of a known spectrum, none further off than it says."""
    values = torch.arange(1, 201, dtype=torch.float64) ** -0.7
    W = testing.with_spectrum(values, 200, 260, seed=1).float()
    found = estimated_ranks(
        estimate(Operator(W[None]), W.double().square().sum().item()), (200, 260), floor=0.1, allotted=400
    )
    true = ranks(values, (200, 260), floor=0.1, allotted=400)
    for field in fields(found.error):
        value, error = getattr(found, field.name), getattr(found.error, field.name)
        assert abs(value - getattr(true, field.name)) <= error + 1e-5 * value, field.name
    assert found.utilisation == found.effective / 400
    assert found.error.utilisation == found.error.effective / 400
    assert 0 < found.error.effective < 0.05 * found.effective


@given(values=VALUES, exponent=st.integers(-100, 100))
def test_ranks_do_not_depend_on_the_scale(values, exponent):
    one, other = of(values), of([value * 2.0**exponent for value in values])
    assert one == other


@given(values=VALUES)
def test_ranks_are_ordered(values):
    """1 <= stable <= participation <= n and effective <= n; more energy never takes fewer directions."""
    found = of(values)
    n = len(values)
    assert 1 - 1e-9 <= found.stable <= n + 1e-9
    assert 1 - 1e-9 <= found.participation <= n + 1e-9
    assert 1 - 1e-9 <= found.effective <= n + 1e-9
    assert 1 <= found.energy_90 <= found.energy_95 <= found.energy_99 <= n


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e30, 1e38])
def test_the_ends_of_float32_are_no_trap(scale):
    values = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64)
    found = ranks((values * scale).float(), (10, 10))
    assert found.effective == pytest.approx(of(values.tolist()).effective, rel=1e-5)
    assert found.stable == pytest.approx(1.3125, rel=1e-5)
