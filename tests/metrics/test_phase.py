"""Where a curve first leaves zero, how its stretches are listed, and what a row says."""

import json

import pytest

from spectra.metrics.phase import PhaseCurve, SideCurve, intervals

SCALES = (0.0, 0.5, 1.0, 1.5, 2.0)


def row(real, degenerate=(0,) * 5, **more):
    count = tuple(a + b for a, b in zip(real, degenerate, strict=True))
    side = SideCurve("left", count, degenerate, (0,) * 5, tuple(real), ((0.9, 0.4),) * 5, ((2.0, 1.0),) * 5)
    found = intervals(dict(zip(SCALES, map(bool, real), strict=True)))
    bracket = (SCALES[SCALES.index(found[0][0]) - 1], found[0][0]) if found else None
    known = {"status": "ok", "reason": "", "method": "basis", "update_kind": "low rank"}
    return PhaseCurve("layers.3.q.weight", "layers.3.q.weight", None, (8, 8), **known, scales=SCALES, sides=(side,),
                      bracket=bracket, intervals=found, **more)  # fmt: skip


@pytest.mark.parametrize(
    ("real", "stretches"),
    [
        ((0, 0, 0, 0, 0), ()),
        ((0, 1, 2, 2, 2), ((0.5, 2.0),)),
        ((0, 0, 0, 0, 3), ((2.0, 2.0),)),
        ((0, 1, 0, 2, 0), ((0.5, 0.5), (1.5, 1.5))),
        ((0, 0, 1, 0, 1), ((1.0, 1.0), (2.0, 2.0))),
    ],
)
def test_stretches(real, stretches):
    looked_at = list(zip(SCALES, map(bool, real), strict=True))
    assert intervals(dict(looked_at)) == intervals(dict(reversed(looked_at))) == stretches


def test_a_row_reads_like_its_json():
    found = row((0, 0, 1, 0, 2), degenerate=(0, 1, 1, 0, 0))
    assert found["critical"] == found.critical == 1.0
    assert found["bracket"] == [0.5, 1.0]
    assert found["resolution"] == 0.0
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
    assert blank.budget is blank.critical is blank["resolution"] is None
    assert blank.total("count") == (0,) * 5
    assert repr(blank) == "<PhaseCurve w 2 x 2: failed>"
