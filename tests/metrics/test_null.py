"""What chance alone gives, against chance itself."""

import math

import numpy as np
import pytest

from spectra.metrics.null import expected_similarity


def by_chance(m, p, seed=1, samples=4000):
    """The mean largest |cosine| of random directions with p of m axes."""
    drawn = np.random.default_rng(seed).standard_normal((samples, m))
    return float((np.abs(drawn[:, :p]).max(1) / np.linalg.norm(drawn, axis=1)).mean())


@pytest.mark.parametrize(
    ("m", "p"),
    [(2, 2), (4, 4), (16, 16), (32, 5), (63, 63), (64, 64), (64, 8), (96, 96), (384, 2), (500, 100), (1024, 1024)],
)
def test_it_is_the_mean_over_random_directions(m, p):
    assert expected_similarity(m, p) == pytest.approx(by_chance(m, p), rel=0.05)


def test_known_values():
    assert expected_similarity(4096, 4096) == pytest.approx(0.059, abs=0.0005)
    assert expected_similarity(64, 64) == pytest.approx(0.33, abs=0.015)


def test_the_rule_of_thumb_is_seven_to_eleven_percent_high():
    for m in (256, 1024, 4096):
        thumb = (2 * np.log(m) / m) ** 0.5
        assert 1.05 < thumb / expected_similarity(m, m) < 1.13


@pytest.mark.parametrize("m", [1, 2, 3, 4, 9, 40])
def test_a_complete_basis_leaves_at_least_one_over_root_m(m):
    assert m**-0.5 <= expected_similarity(m, m) <= 1


def test_one_base_vector_is_the_mean_of_one_cosine():
    """E |x . u| = Gamma(m / 2) / (sqrt(pi) Gamma((m + 1) / 2)), exactly."""
    for m in (64, 100, 10_000):
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
    first = expected_similarity(40, 40)
    expected_similarity.cache_clear()
    assert expected_similarity(40, 40) == first


@pytest.mark.parametrize(("m", "p"), [(0, 0), (0, 3), (3, 0)])
def test_no_vectors_no_similarity(m, p):
    assert expected_similarity(m, p) == 0.0
