"""The law has a known threshold for noise, no trap at an atom, and is right about isotropic spikes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectra import testing
from spectra.engine import dense
from spectra.engine.resemblance import compared
from spectra.metrics.intruders import intruders
from spectra.metrics.threshold import bulk_edge, threshold


def gaussian(m, n, seed):
    drawn = torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn / max(m, n) ** 0.5


@pytest.mark.parametrize(("m", "n"), [(600, 600), (300, 900), (900, 300), (500, 550)])
@pytest.mark.parametrize("seed", [0, 1])
def test_noise_has_the_known_threshold(m, n, seed):
    """Entries of variance 1 / max(m, n): a spike leaves the bulk at `c^(1/4)`, whose edge is `1 + sqrt(c)`."""
    values = torch.linalg.svdvals(gaussian(m, n, seed))
    found = threshold(values, (m, n), 1.0, k=10)
    c = min(m, n) / max(m, n)
    assert found.theta_bar == pytest.approx(c**0.25, rel=0.16)
    assert found.edge == pytest.approx(1 + c**0.5, rel=0.03)


def test_values_above_the_bulk_are_no_part_of_it():
    noise = gaussian(300, 300, 0)
    spiked = noise + testing.with_spectrum([9.0, 7.0, 2.4], 300, 300, seed=1)
    before, after = (threshold(torch.linalg.svdvals(matrix), (300, 300), 1.0, k=10) for matrix in (noise, spiked))
    assert after.edge == pytest.approx(before.edge, rel=0.03)
    assert after.theta_bar == pytest.approx(before.theta_bar, rel=0.1)


@pytest.mark.parametrize("gap", [1e-2, 1e-6, 1e-12, 0.0])
def test_an_atom_where_it_is_read_does_not_make_it_zero(gap):
    """Values just below sigma_k: the sum over them is infinite there, the threshold is not zero."""
    values = torch.linspace(2, 0.01, 400, dtype=torch.float64)
    values[10] = values[9] * (1 - gap)
    found, smooth = (threshold(each, (400, 400), 1.0, k=10) for each in (values, torch.linspace(2, 0.01, 400).double()))
    assert found.theta == pytest.approx(smooth.theta, rel=0.2)


@given(factor=st.floats(1e-3, 1e3), k=st.integers(1, 12))
def test_a_scaled_base_scales_the_threshold(factor, k):
    values = testing.decaying(60, 40, seed=0)
    values = torch.linalg.svdvals(values)
    one, other = threshold(values, (60, 40), 0.5, k=k), threshold(factor * values, (60, 40), 0.5, k=k)
    assert other.theta == pytest.approx(factor * one.theta, rel=1e-9)
    assert other.theta_bar == pytest.approx(factor * one.theta_bar, rel=1e-9)
    assert other.critical == pytest.approx(factor * one.critical, rel=1e-9)


def test_an_update_twice_as_strong_needs_half_the_scale():
    values = torch.linalg.svdvals(testing.decaying(60, 40, seed=0))
    one, two = threshold(values, (60, 40), 1.0, k=5), threshold(values, (60, 40), 2.0, k=5)
    assert two.critical == one.critical / 2
    assert two.critical_bulk == one.critical_bulk / 2


def test_the_top_is_entered_only_from_outside_the_bulk():
    """sigma_k inside a bulk: strength enough for it is not enough to be seen at all."""
    found = threshold(torch.linalg.svdvals(gaussian(400, 400, 0)), (400, 400), 1.0, k=100)
    assert found.theta < found.theta_bar == found.critical


@pytest.mark.parametrize(
    "values", [torch.zeros(0), torch.tensor([3.0, 2.0, 1.0]), torch.tensor([3.0, 2.0, 0.0, 0.0, 0])]
)
def test_a_base_without_values_beyond_k_has_no_threshold(values):
    assert threshold(values, (5, 5), 1.0, k=3) is None


def test_zeros_of_a_base_are_atoms_but_no_bulk():
    full = torch.linalg.svdvals(gaussian(200, 200, 3))
    padded = torch.cat([full, torch.zeros(200, dtype=torch.float64)])
    assert bulk_edge(full, (200, 200)) == pytest.approx(threshold(padded, (400, 400), 1.0, k=5).edge, rel=0.05)


@pytest.mark.parametrize("kind", ["noise", "decaying"])
def test_an_isotropic_spike_enters_about_where_predicted(kind):
    """A planted rank-one update of random directions: first intruder of a fine grid against the law, ten times."""
    m, n, k, ratios = 120, 160, 5, []
    for seed in range(10):
        base = gaussian(m, n, seed) if kind == "noise" else testing.decaying(m, n, seed=seed)
        spike = testing.orthogonal(m, 1, seed=100 + seed) @ testing.orthogonal(n, 1, seed=200 + seed).T
        before = dense.svd(base)
        law = threshold(before.S, (m, n), 1.0, k=k).critical

        def count(strength, base=base, spike=spike, before=before):
            after = dense.svd(base + strength * spike)
            return intruders(compared(before, after, k=k), after.S, torch.zeros(m), energy=1.0, k=k).count

        exact = next(law * step for step in torch.linspace(0.3, 3, 55).tolist() if count(law * step))
        ratios.append(law / exact)
    assert all(0.5 <= ratio <= 2 for ratio in ratios)
    assert 0.7 <= sorted(ratios)[5] <= 1.3
