"""Where a curve first leaves zero, how its stretches are listed, and what a row says."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectra.metrics.phase import PhaseCurve, SideCurve, bisect, first_crossing, intervals

SCALES = (0.0, 0.5, 1.0, 1.5, 2.0)


def row(real, degenerate=(0,) * 5, **more):
    count = tuple(a + b for a, b in zip(real, degenerate, strict=True))
    side = SideCurve("left", count, degenerate, (0,) * 5, tuple(real), ((0.9, 0.4),) * 5, ((2.0, 1.0),) * 5)
    bracket = first_crossing(SCALES, real)
    known = {"status": "ok", "reason": "", "method": "basis", "update_kind": "low rank"}
    found = intervals(SCALES, real, bracket)
    return PhaseCurve("layers.3.q.weight", "layers.3.q.weight", None, (8, 8), **known, scales=SCALES, sides=(side,),
                      bracket=bracket, intervals=found, **more)  # fmt: skip


@pytest.mark.parametrize(
    ("real", "bracket", "stretches"),
    [
        ((0, 0, 0, 0, 0), None, ()),
        ((0, 1, 2, 2, 2), (0.0, 0.5), ((0.5, 2.0),)),
        ((0, 0, 0, 0, 3), (1.5, 2.0), ((2.0, 2.0),)),
        ((0, 1, 0, 2, 0), (0.0, 0.5), ((0.5, 0.5), (1.5, 1.5))),
        ((0, 0, 1, 0, 1), (0.5, 1.0), ((1.0, 1.0), (2.0, 2.0))),
    ],
)
def test_crossings_and_stretches(real, bracket, stretches):
    assert first_crossing(SCALES, real) == bracket
    assert intervals(SCALES, real, bracket) == stretches


def test_the_first_stretch_begins_at_the_bisected_scale():
    assert intervals(SCALES, (0, 0, 2, 2, 0), (0.61, 0.62)) == ((0.62, 1.5),)


@given(crossing=st.floats(1e-3, 2), width=st.sampled_from([1e-2, 1e-4, 1e-6]))
def test_bisection_closes_in_on_the_crossing(crossing, width):
    low, high = bisect((0.0, 2.0), lambda scale: scale >= crossing, width)
    assert low < crossing <= high
    assert high - low <= max(width * high, 1e-6)


def test_bisection_stops_where_it_cannot_be_told():
    tried = []

    def probe(scale):
        tried.append(scale)
        return None if len(tried) == 3 else scale > 1.2

    assert bisect((1.0, 2.0), probe) == (1.0, 1.25)
    assert tried == [1.5, 1.25, 1.125]


def test_a_crossing_at_once_ends_the_bisection():
    low, high = bisect((0.0, 1.0), lambda _: True)
    assert (low, high) == (0.0, pytest.approx(1e-6, rel=1))


def test_a_row_reads_like_its_json():
    found = row((0, 0, 1, 0, 2), degenerate=(0, 1, 1, 0, 0))
    assert found["critical"] == found.critical == 1.0
    assert found["bracket"] == [0.5, 1.0]
    assert found.budget == 0.5
    assert found.total("count") == (0, 1, 2, 0, 2)
    assert found.real == (0, 0, 1, 0, 2)
    assert found.at(1.0) == 2
    assert found.at(1.0, "degenerate") == 1
    assert found.least_similarity() == (0.4,) * 5
    assert (found.place.block, found.place.module) == (3, "q")
    assert dict(found) == found.to_dict()
    assert json.loads(json.dumps(found.to_dict()))["curves"]["left"]["count"] == [0, 1, 2, 0, 2]


def test_without_a_crossing_the_budget_is_all_that_was_swept():
    found = row((0, 0, 0, 0, 0), degenerate=(0, 2, 2, 2, 2))
    assert found.critical is found.bracket is found.error is None
    assert found.budget == 2.0
    assert repr(found) == "<PhaseCurve layers.3.q.weight 8 x 8: no intruders>"


def test_a_row_that_was_not_swept_has_no_budget():
    blank = PhaseCurve("w", "w", None, (2, 2), "failed", "why", "none", "dense", SCALES)
    assert blank.budget is blank.critical is None
    assert blank.total("count") == (0,) * 5
    assert repr(blank) == "<PhaseCurve w 2 x 2: failed>"
