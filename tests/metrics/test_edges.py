"""Planted spikes stand above the edges of the noise they were added to; what is no noise says so."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spectra import testing
from spectra.metrics.edges import edges
from spectra.metrics.marchenko_pastur import above

SHAPES = [(400, 400), (150, 600), (600, 150), (300, 310)]


def noise(m, n, sigma, seed):
    return sigma * torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of(matrix):
    return edges(torch.linalg.svdvals(matrix), tuple(matrix.shape))


@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_planted_spikes_are_counted(m, n):
    sigma = 0.02
    edge = sigma * (m**0.5 + n**0.5)
    spikes = testing.with_spectrum([3 * edge, 2.5 * edge, 2 * edge], m, n, seed=1)
    found = of(noise(m, n, sigma, 2) + spikes)
    assert found.sigma == pytest.approx(sigma, rel=0.03)
    assert found.marchenko_pastur == pytest.approx(edge, rel=0.03)
    assert found.above_marchenko_pastur == found.above_gavish_donoho == 3
    assert found.distance < 0.05


@pytest.mark.parametrize(("m", "n"), SHAPES)
def test_noise_alone_has_next_to_nothing_above(m, n):
    found = of(noise(m, n, 1.0, 3))
    assert found.above_marchenko_pastur <= 1
    assert found.above_gavish_donoho == 0
    assert found.distance < 0.03


def test_the_rounding_of_a_file_is_noise():
    base = noise(256, 256, 1.0, 4).float()
    update = testing.rounded(base, torch.bfloat16) - base
    found = of(update.double())
    assert found.sigma == pytest.approx(float(update.double().square().mean().sqrt()), rel=0.05)
    assert found.above_gavish_donoho == 0
    assert found.distance < 0.05


@pytest.mark.parametrize("c", [1.0, 0.8, 0.5, 0.25, 0.1, 0.01])
def test_the_threshold_is_the_published_multiple_of_the_median(c):
    """Gavish and Donoho 2014: 2.858 of a square matrix (abstract), and a cubic within 0.02 of any (equation 5)."""
    values = torch.linspace(2, 0.5, 200, dtype=torch.float64)
    multiple = edges(values, (200, round(200 / c))).gavish_donoho / float(values.quantile(0.5))
    assert multiple == pytest.approx(0.56 * c**3 - 0.95 * c**2 + 1.82 * c + 1.43, abs=0.02)
    if c == 1:
        assert multiple == pytest.approx(2.858, abs=5e-4)


@pytest.mark.parametrize("values", [[1.0, 1, 1, 1, 1, 0.9, 0.9, 0.9], [9.0, 9, 9, 1, 1, 0.1, 0.1, 0.1]])
def test_the_distance_is_the_largest_difference_anywhere(values):
    """Against a fine grid; the first spectrum lies behind the law, the second ahead of it."""
    found, s = edges(torch.tensor(values), (8, 8)), np.array(values)
    grid = np.linspace(0, 10, 100_001)
    share = (s[None] > grid[:, None]).mean(1)
    law = above(grid / (found.sigma * 8**0.5), 1.0)
    assert found.distance == pytest.approx(np.abs(share - law).max(), abs=1e-3)


def test_a_spectrum_that_is_no_noise_says_so():
    assert of(testing.decaying(200, 200, seed=5)).distance > 0.2


@pytest.mark.parametrize(
    "values",
    [
        torch.zeros(0),
        torch.tensor([3.0, 2.0]),  # of an update of rank 2, from its factors
        torch.tensor([3.0, 2.0, 1.0, 0.0, 0, 0, 0, 0]),
        torch.tensor([3.0, 2.0, 1.0, 1e-7, 1e-7, 1e-7, 1e-7, 1e-7]),  # rounding of the decomposition
    ],
)
def test_without_a_bulk_there_is_no_edge(values):
    assert edges(values, (8, 8)) is None


def test_an_empty_matrix_has_no_edge():
    assert edges(torch.zeros(0), (0, 5)) is None


@given(factor=st.floats(1e-6, 1e6))
def test_a_scaled_update_scales_the_edges(factor):
    values = torch.linalg.svdvals(noise(40, 60, 1.0, 6) + testing.with_spectrum([40.0], 40, 60, seed=7))
    one, other = edges(values, (40, 60)), edges(factor * values, (40, 60))
    for name in ("sigma", "marchenko_pastur", "gavish_donoho"):
        assert getattr(other, name) == pytest.approx(factor * getattr(one, name), rel=1e-9)
    assert (other.above_marchenko_pastur, other.above_gavish_donoho) == (1, 1)
    assert other.distance == pytest.approx(one.distance, abs=1e-9)
