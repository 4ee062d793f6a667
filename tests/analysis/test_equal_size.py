"""At equal size the same directions have the same intruders, and only what size did not make is left."""

import dataclasses

import pytest

from spectra import testing
from spectra.analysis import equal_size
from spectra.analysis.comparison import compare
from spectra.analysis.settings import Settings
from spectra.errors import UsageError


def scaled(base, tuned, scale):
    return {key: weight + scale * (tuned[key] - weight) for key, weight in base.items()}


def size_claim(found):
    (claim,) = [claim for claim in found.claims if "||dW||" in claim.evidence[0]]
    return claim


@pytest.mark.parametrize("order", [("half", "whole"), ("whole", "half")])
def test_one_update_at_two_strengths_is_the_same_at_equal_size(order, base, tuned):
    """The stronger is scaled, whichever it is, and then counts what the weaker does."""
    models = {"half": scaled(base, tuned, 0.5), "whole": tuned}
    found = compare(base, {name: models[name] for name in order}, equal_size=True)
    half = found.models["half"].summary
    expected = half["rotated"] + half["new"]
    assert found.models["whole"].summary["intruders"] > expected > 0
    pair = found.claims[0].numbers[order[1]]
    assert pair["equal"]["scaled"] == "whole"
    assert pair["equal"]["scale"] == pytest.approx(0.5, rel=1e-5)
    assert pair["equal"]["intruders"] == (expected, expected)
    assert f": the difference from {order[0]} in intruders is gone at equal size" in size_claim(found).text


@pytest.mark.slow
def test_of_the_demo_rank_2_keeps_most_intruders_at_equal_size_and_rank_32_loses_all(trio):
    models = {name: trio / name for name in ("lora-r2", "lora-r32", "full")}
    claim = size_claim(compare(trio / "base", models, equal_size=True))
    assert "lora-r2: most of the difference from full in intruders stays at equal size" in claim.text
    assert "lora-r32: the difference from full in intruders is gone at equal size" in claim.text


def test_what_directions_do_stays_at_equal_size(base, tuned):
    """Noise against the base's own directions stretched, which no size turns."""
    stretched = {key: 3 * weight if weight.ndim == 2 else weight for key, weight in base.items()}
    found = compare(base, {"stretched": stretched, "noise": scaled(base, tuned, 1.5)}, equal_size=True)
    pair = found.claims[0].numbers["noise"]
    assert pair["intruders"][1] == pair["equal"]["intruders"][1] == 0
    assert "stays at equal size" in size_claim(found).text
    ours, theirs = pair["equal"]["intruders"]
    assert f"at scale {pair['equal']['scale']:.2g}, {ours} against {theirs}" in size_claim(found).evidence[0]


def test_a_matrix_that_fails_is_left_out_of_both_counts(base, tuned, monkeypatch):
    models = {"half": scaled(base, tuned, 0.5), "whole": tuned}
    key = next(key for key, weight in base.items() if weight.ndim == 2)
    follow = equal_size.follow

    def failing(pair, *rest, **how):
        return dataclasses.replace(follow(pair, *rest, **how), status="failed" if pair.key == key else "ok")

    monkeypatch.setattr(equal_size, "follow", failing)
    found = compare(base, models, equal_size=True)
    without = compare(base, models, equal_size=True, exclude=[key])
    pair, other = (one.claims[0].numbers["whole"]["equal"] for one in (found, without))
    assert pair["failed"] == 1
    assert pair["intruders"][0] == pair["intruders"][1] <= other["intruders"][0]
    assert "(1 matrix failed)" in size_claim(found).evidence[0]


def test_both_sides_are_counted(base):
    key = "w.weight"
    start = {key: testing.decaying(64, 64, seed=1).float()}
    tuned = {key: start[key] + testing.noise(64, 64, level=0.8, seed=2).float()}
    found = compare(
        start, {"half": scaled(start, tuned, 0.5), "whole": tuned}, settings=Settings(side="both"), equal_size=True
    )
    pair = found.claims[0].numbers["whole"]
    assert pair["equal"]["intruders"][0] == pair["equal"]["intruders"][1] == pair["intruders"][1]


def test_it_is_not_measured_unasked(base, tuned):
    found = compare(base, {"half": scaled(base, tuned, 0.5), "whole": tuned})
    assert found.claims[0].numbers["whole"]["equal"] is None
    assert "--equal-size" in size_claim(found).limits[-1]


def test_a_method_that_cannot_scale_is_refused_before_measuring(base, tuned):
    with pytest.raises(UsageError, match="not certified"):
        compare(base, {"x": tuned}, settings=Settings(method="certified"), equal_size=True)
