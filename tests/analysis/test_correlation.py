"""A correlation with its interval, and none where there is nothing to correlate."""

import numpy as np
import pytest

from spectra.analysis.correlation import correlation
from spectra.analysis.diagnosis import diagnose


def test_against_numpy_and_fishers_transform():
    drawn = np.random.default_rng(0).standard_normal((2, 28))
    one, other = drawn[0].tolist(), (drawn[0] + drawn[1]).tolist()
    found = correlation(one, other)
    assert found.matrices == 28
    assert found.r == pytest.approx(np.corrcoef(one, other)[0, 1])
    assert np.arctanh([found.low, found.high]) - np.arctanh(found.r) == pytest.approx([-1.96 / 5, 1.96 / 5], rel=1e-3)


def test_the_interval_holds_the_truth_nineteen_times_in_twenty():
    draw, held = np.random.default_rng(1), 0
    for _ in range(400):
        one, other = draw.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], 20).T
        found = correlation(one.tolist(), other.tolist())
        held += found.low <= 0.6 <= found.high
    assert 0.92 <= held / 400 <= 0.98


def test_a_line_is_certain():
    found = correlation([1.0, 2, 3, 4], [2.0, 4, 6, 8])
    assert (found.r, found.low, found.high) == pytest.approx((1, 1, 1))


@pytest.mark.parametrize("pair", [([1.0, 2, 3], [3.0, 1, 2]), ([1.0, 1, 1, 1], [1.0, 2, 3, 4]), ([], [])])
def test_few_or_constant_numbers_have_none(pair):
    assert correlation(*pair) is None


def test_the_summary_correlates_turning_with_growing(base, tuned):
    report = diagnose(base, tuned)
    rows = [row.magnitude for row in report.rows if row.magnitude is not None]
    found = report.summary["magnitude_direction"]
    for name, grown in (("absolute", [row.dM for row in rows]), ("relative", [row.relative for row in rows])):
        assert found[name]["matrices"] == len(rows) == report.summary["measured"]
        assert found[name]["r"] == pytest.approx(np.corrcoef(grown, [row.dD for row in rows])[0, 1])
    assert found["absolute"]["r"] != pytest.approx(found["relative"]["r"], abs=1e-3)


def test_few_matrices_have_no_correlation(base, tuned):
    found = diagnose(base, tuned, include=["layers.0.self_attn.q_proj"]).summary["magnitude_direction"]
    assert found == {"absolute": None, "relative": None}
