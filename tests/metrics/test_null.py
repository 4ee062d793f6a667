"""What chance alone gives, against chance itself."""

import math

import numpy as np
import pytest

from spectra.metrics.null import _sampled, expected_similarity, null_quantile


def by_chance(m, p, seed=1, samples=4000):
    """The mean largest |cosine| of random directions with p of m axes, and the standard error of that mean."""
    drawn = np.random.default_rng(seed).standard_normal((samples, m))
    largest = np.abs(drawn[:, :p]).max(1) / np.linalg.norm(drawn, axis=1)
    return float(largest.mean()), float(largest.std()) / samples**0.5


@pytest.mark.parametrize(
    ("m", "p"),
    [(2, 2), (4, 4), (16, 16), (32, 5), (63, 63), (64, 64), (64, 8), (96, 96), (384, 2), (500, 100), (1024, 1024)],
)
def test_it_is_the_mean_over_random_directions(m, p):
    mean, error = by_chance(m, p)
    assert expected_similarity(m, p) == pytest.approx(mean, abs=4 * error)


def test_known_values():
    """Of two orthogonal axes in a plane, the mean of the larger of |cos| and |sin|: 4 sin(45 degrees) / pi."""
    assert expected_similarity(4096, 4096) == pytest.approx(0.0594, abs=0.00005)
    assert expected_similarity(64, 64) == pytest.approx(0.3258, abs=0.00005)
    assert expected_similarity(2, 2) == pytest.approx(4 * math.sin(math.pi / 4) / math.pi)
    assert expected_similarity(1, 1) == pytest.approx(1)


@pytest.mark.parametrize("m", range(60, 69))
def test_no_size_is_the_seam_of_two_formulas(m):
    """The taken-as-independent mean was 0.007 too low from 64 on, and jumped there by 0.009."""
    assert expected_similarity(m, m) == pytest.approx(by_chance(m, m, samples=16_000)[0], abs=0.0025)
    steps = [expected_similarity(at, at) - expected_similarity(at + 1, at + 1) for at in (m - 1, m)]
    assert 0 < steps[1] < steps[0] < 0.0025
    low, middle = null_quantile([0.25, 0.32], m, m)
    after = null_quantile([0.25, 0.32], m + 1, m + 1)
    assert abs(after[0] - low) < 0.03
    assert abs(after[1] - middle) < 0.05


def test_the_rule_of_thumb_is_seven_to_eleven_percent_high():
    for m in (256, 1024, 4096):
        thumb = (2 * np.log(m) / m) ** 0.5
        assert 1.05 < thumb / expected_similarity(m, m) < 1.13


@pytest.mark.parametrize("m", [1, 2, 3, 4, 9, 40])
def test_a_complete_basis_leaves_at_least_one_over_root_m(m):
    assert m**-0.5 <= expected_similarity(m, m) <= 1


def test_one_base_vector_is_the_mean_of_one_cosine():
    """E |x . u| = Gamma(m / 2) / (sqrt(pi) Gamma((m + 1) / 2)), exactly."""
    for m in (1, 2, 17, 64, 100, 10_000):
        exact = math.exp(math.lgamma(m / 2) - math.lgamma((m + 1) / 2)) / math.pi**0.5
        assert expected_similarity(m, 1) == pytest.approx(exact, rel=1e-6)


def test_it_falls_with_dimension_and_rises_with_the_number_of_base_vectors():
    sizes = [1, 2, 4, 8, 16, 32, 63, 64, 100, 128, 512, 4096, 50_000, 200_000]
    square = [expected_similarity(m, m) for m in sizes]
    assert square == sorted(square, reverse=True)
    for m in (20, 128, 4096):
        counts = [1, 2, 5, 10, 20]
        assert [expected_similarity(m, p) for p in counts] == sorted(expected_similarity(m, p) for p in counts)


def test_the_sampled_branch_repeats_itself():
    first = null_quantile([0.3, 0.4], 40, 40)
    _sampled.cache_clear()
    assert null_quantile([0.3, 0.4], 40, 40) == first


@pytest.mark.parametrize(("m", "p"), [(0, 0), (0, 3), (3, 0)])
def test_no_vectors_no_similarity(m, p):
    assert expected_similarity(m, p) == 0.0


@pytest.mark.parametrize(("m", "p"), [(2, 2), (16, 16), (63, 20), (64, 64), (384, 2), (1024, 1024)])
def test_the_quantile_is_the_share_of_random_directions_below(m, p):
    drawn = np.random.default_rng(3).standard_normal((4000, m))
    largest = np.abs(drawn[:, :p]).max(1) / np.linalg.norm(drawn, axis=1)
    at = np.quantile(largest, [0.05, 0.5, 0.95])
    np.testing.assert_allclose(null_quantile(at.tolist(), m, p), [0.05, 0.5, 0.95], rtol=0, atol=0.03)


def test_the_quantile_of_one_base_vector_in_three_dimensions_is_exact():
    """On a sphere in R^3 a coordinate is uniform: P(|x| <= t) = t."""
    assert null_quantile([0.0, 0.25, 1.0], 3, 1) == pytest.approx((0, 0.25, 1), abs=0.02)


@pytest.mark.parametrize("m", [1, 5, 63, 64, 4096])
def test_the_quantile_rises_from_zero_to_one(m):
    found = null_quantile([0.0, *np.linspace(0.01, 0.99, 50).tolist(), 1.0], m, m)
    assert list(found) == sorted(found)
    assert (found[0], found[-1]) == (0, 1)
    assert null_quantile([1 - 2**-24], m, m)[0] > 0.999  # one, in float32


def test_the_mean_is_that_of_the_quantiles_distribution():
    for m, p, sampled in ((40, 40, 4e-3), (64, 64, 0), (64, 3, 0), (256, 256, 0)):
        x = np.linspace(0, 1, 20001)
        mean = float(np.trapezoid(1 - np.array(null_quantile(x.tolist(), m, p)), x))
        assert mean == pytest.approx(expected_similarity(m, p), abs=sampled + 1e-4)


@pytest.mark.parametrize(("m", "p"), [(0, 0), (0, 3), (3, 0)])
def test_without_vectors_nothing_is_below(m, p):
    assert null_quantile([0.5, 0.1], m, p) == (0.0, 0.0)
    assert null_quantile([], 5, 5) == ()
