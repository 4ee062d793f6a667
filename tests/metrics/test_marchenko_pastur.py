"""The law of noise agrees with noise, with its own density, and with the published thresholds."""

import numpy as np
import pytest
import scipy.integrate
from hypothesis import given
from hypothesis import strategies as st

from spectra.metrics.marchenko_pastur import above, median

ASPECTS = st.floats(1e-4, 1.0)


def density(s, c):
    """Of singular values, from Marchenko and Pastur's law of their squares."""
    low, high = (1 - c**0.5) ** 2, (1 + c**0.5) ** 2
    return np.sqrt(max((high - s * s) * (s * s - low), 0.0)) / (np.pi * c * s)


@pytest.mark.parametrize("c", [1.0, 0.7, 0.25, 0.01])
def test_the_closed_form_is_the_integral_of_the_density(c):
    low, high = 1 - c**0.5, 1 + c**0.5
    for s in np.linspace(low, high, 9)[1:-1]:
        share, _ = scipy.integrate.quad(density, s, high, args=(c,))
        assert above(np.asarray(s), c) == pytest.approx(share, abs=1e-7)


@given(c=ASPECTS)
def test_half_the_values_lie_above_the_median_and_all_within_the_edges(c):
    ends = np.array([0.0, 1 - c**0.5, 1 + c**0.5, 9.0])
    assert above(ends, c) == pytest.approx([1, 1, 0, 0], abs=1e-9)
    assert above(np.asarray(median(c)), c) == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize(("m", "n"), [(500, 500), (300, 900)])
def test_noise_has_this_median(m, n):
    drawn = np.random.default_rng(0).standard_normal((m, n)) / max(m, n) ** 0.5
    assert median(min(m, n) / max(m, n)) == pytest.approx(
        float(np.median(np.linalg.svd(drawn, compute_uv=False))), rel=4e-3
    )
