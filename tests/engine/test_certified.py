"""The certified path decides planted cases as the full decomposition does, or says that it cannot."""

import pytest
import torch

from spectra import testing
from spectra.engine.certified import Question, certify
from spectra.engine.choose import Request, decompose
from spectra.engine.krylov import Operator
from spectra.engine.leading import leading
from spectra.engine.resemblance import SIDES
from spectra.metrics.layer import measure
from spectra.updates import Dense, LowRank

SHAPES = [(320, 320), (400, 300), (300, 400)]


def asked(base, update, *, side="left", k=10, epsilon=0.5, most=24):
    base = base[None] if base.ndim == 2 else base
    if isinstance(update, LowRank):
        tuned = Operator(base, update.B[None].to(base), update.A[None].to(base))
    else:
        tuned = Operator(base + update)
    return certify(Operator(base), leading(tuned, k), side=side, question=Question(epsilon, 16), most=most)


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["low rank", "dense"])
def test_rows_have_the_verdicts_of_the_exact_path(kind, shape, side):
    base = testing.decaying(*shape, seed=1, exponent=0.5)
    planted = testing.plant_intruders(base, 3, strength=0.7, seed=2)
    update = planted if kind == "low rank" else planted.dense() + testing.noise(*shape, level=0.01, seed=3)
    pair = testing.weight_pair(base, update)
    rows = {}
    for method in ("exact", "certified"):
        found = decompose(pair, Request(sides=(side,), method=method))
        assert found.method == method
        rows[method] = measure(pair, found)
    exact, certified = (rows[method].intruders[0] for method in rows)
    assert certified.verdict == exact.verdict
    assert certified.new == 3
    assert certified.count == exact.count
    for least, most, true in zip(certified.similarity, certified.similarity_bound, exact.similarity, strict=True):
        assert least - 1e-5 <= true <= most + 1e-5
    for name, tolerance in (("sigma", 1e-4), ("base_share", 1e-3), ("update_share", 1e-3), ("relative_gap", 1e-2)):
        assert getattr(certified, name) == pytest.approx(getattr(exact, name), rel=tolerance, abs=tolerance)
    assert certified.energy_share == pytest.approx(exact.energy_share, rel=1e-3)
    assert max(certified.residual) < 1e-3
    assert certified.steps > 0
    assert certified.missed <= 1e-5
    assert certified.novelty_span <= exact.novelty_span == 16


def test_what_was_not_computed_is_null_and_not_zero():
    base = testing.decaying(320, 320, seed=1, exponent=0.5)
    pair = testing.weight_pair(base, testing.plant_intruders(base, 3, strength=0.7, seed=2))
    row = measure(pair, decompose(pair, Request(method="certified")))
    side = row.intruders[0]
    at = dict(zip(side.sweep_k, side.sweep, strict=True))
    assert at[20] == at[50] == at[100] == (None,) * len(side.sweep_epsilon)
    assert at[10][side.sweep_epsilon.index(0.5)] == 3
    assert None in at[10]  # between found and bound the count is open
    assert [verdict == "kept" for verdict in side.verdict] == [place is not None for place in side.nearest]
    assert len(row.spectrum.update) == 3
    assert 16 <= len(row.spectrum.base) < 96
    assert len(row.spectrum.tuned) == 11
    assert row["intruders"]["sweep"]["count"][-1] == (None,) * 19


def test_directions_turned_within_the_top_space_are_named_rotated():
    base = testing.decaying(320, 320, seed=4, exponent=0.5)
    pair = testing.weight_pair(base, testing.rotate_top(base, span=12, seed=5))
    verdicts = {
        method: measure(pair, decompose(pair, Request(method=method))).intruders[0].verdict
        for method in ("exact", "certified")
    }
    assert verdicts["certified"] == verdicts["exact"]
    assert verdicts["exact"].count("rotated") >= 2


def test_a_tie_in_the_base_is_met_as_a_space():
    """Three tied leading values, turned among themselves: no vector is alone, and none is called new."""
    values = [5, 5, 5, *torch.linspace(3, 0.1, 297, dtype=torch.float64).tolist()]
    base = testing.with_spectrum(values, 300, 300, seed=1)
    U, _, Vh = torch.linalg.svd(base)
    turn = testing.orthogonal(3, 3, seed=2)
    update = LowRank(U[:, :3] @ (turn * torch.tensor([1.2, 1.1, 1.0])) - 0.0 * U[:, :3], Vh[:3])
    (found,) = asked(base, update, epsilon=0.9)
    assert found is not None
    projection = found.cosines[:3].square().sum(0).sqrt()
    assert bool((projection[:3] > 0.99).all())
    assert bool((found.bound[:3] > 0.99).all())
    pair = testing.weight_pair(base, update)
    row = measure(pair, decompose(pair, Request(method="certified", epsilon=0.9)), epsilon=0.9).intruders[0]
    assert set(row.verdict[:3]) <= {"kept", "degenerate"}


def test_a_flat_base_is_left_to_the_exact_path():
    base = testing.orthogonal(200, 200, seed=3)
    assert asked(base, testing.noise(200, 200, level=0.5, seed=1)) == [None]
    pair = testing.weight_pair(base, testing.noise(200, 200, level=0.5, seed=1))
    found = decompose(pair, Request(method="certified"))
    assert found.method == "exact"
    assert "left a vector undecided" in found.reason


def test_a_rank_deficient_tall_base_has_no_smallest_value_to_stand_on():
    """Its null space looks like values as small as can be: what lies there is not decided here."""
    base = testing.with_spectrum(torch.linspace(2, 1, 120, dtype=torch.float64), 400, 200, seed=1)
    U, _, Vh = torch.linalg.svd(base)
    outside = LowRank(3 * U[:, 150:153], Vh[:3])
    assert asked(base, outside) == [None]


def test_a_batch_decides_each_member_for_itself():
    easy, flat = testing.decaying(200, 200, seed=1, exponent=0.5), testing.orthogonal(200, 200, seed=3)
    update = torch.stack([testing.plant_intruders(easy, 2, seed=1).dense(), testing.noise(200, 200, level=0.5, seed=1)])
    first, second = asked(torch.stack([easy, flat]), update)
    assert second is None
    (alone,) = asked(easy, update[0])
    torch.testing.assert_close(first.found, alone.found, rtol=0, atol=2e-3)  # each within its own error


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_entries_beyond_the_range_of_products_go_to_the_exact_path(scale):
    base = testing.decaying(200, 200, seed=1, exponent=0.5)
    pair = testing.weight_pair(base * scale, testing.noise(200, 200, level=0.5, seed=1) * scale)
    assert isinstance(pair.update, Dense)
    found = decompose(pair, Request(method="certified"))
    assert found.method == "exact"
    assert "range of float32" in found.reason
