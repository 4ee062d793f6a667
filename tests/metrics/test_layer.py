"""One row of a report: what is measured of one pair, in which dtype's light, and what is not measured."""

import json
from dataclasses import replace

import pytest
import torch

import spectra
from spectra import table, testing
from spectra.engine.choose import Request, decompose
from spectra.layout import layout_of
from spectra.metrics import blocks, layer
from spectra.metrics.layer import Layer, measure, unmeasured
from spectra.metrics.magnitude import magnitude
from spectra.metrics.noise import rounding_floor
from spectra.metrics.norms import norms
from spectra.metrics.status import FAILED, NONFINITE, OOM, ZERO, ZERO_BASE
from spectra.updates import Dense, Kronecker, LowRank, Storage, WeightPair

BASE = testing.decaying(40, 30, seed=1).float()


def pair(update, base_dtype="float32", update_dtype="float32", **options):
    sizes = [Storage(dtype, 1200, 4800) for dtype in (base_dtype, update_dtype)]
    return WeightPair("a.0.b.weight", BASE, update, layout_of((40, 30)), *sizes, **options)


def low_rank():
    return LowRank(*testing.lora({"w.weight": BASE}, ["w"], rank=3, seed=2)["w"])


def dense():
    return Dense(testing.noise(40, 30, level=0.1, seed=3).float())


@pytest.mark.parametrize(
    ("update", "stored", "floor"),
    [
        (dense(), ("float32", "bfloat16"), "bfloat16"),  # the fine-tune was rounded
        (dense(), ("bfloat16", "float32"), "bfloat16"),  # the base was
        (dense(), ("float16", "bfloat16"), "bfloat16"),
        (low_rank(), ("float32", "bfloat16"), "float32"),  # factors in half precision round no weight
        (low_rank(), ("float16", "float32"), "float16"),  # but a merge into the base would
        (low_rank(), ("float32", "int8"), "float32"),
    ],
)
def test_the_floor_is_that_of_the_dtype_a_weight_was_rounded_to(update, stored, floor):
    found = pair(update, *stored)
    assert measure(found, decompose(found)).floor.dtype == floor


@pytest.mark.parametrize(
    ("update", "stored", "named"),
    [
        (dense(), ("float8_e4m3fn", "bfloat16"), "float8_e4m3fn"),
        (dense(), ("bfloat16", "nf4"), "nf4"),
        (dense(), ("Q4_K", "int8"), "Q4_K, int8"),
        (low_rank(), ("nf4", "float32"), "nf4"),
    ],
)
@pytest.mark.parametrize("spectrum", ["exact", "estimated"])
def test_packed_weights_have_no_floor_and_the_row_says_why(update, stored, named, spectrum):
    """An 8-bit float has 3 bits of mantissa, but the scale that multiplies it is not known: no number is right."""
    found = pair(update, *stored)
    row = measure(found, decompose(found, Request(spectrum=spectrum)))
    assert (row.floor, row["floor"], row.rank.above_floor) == (None, None, None)
    assert row.rank.numerical > 0
    assert row.norm == measure(pair(update), decompose(pair(update))).norm
    (note,) = (note for note in row.notes if "no rounding floor" in note)
    assert f"packed as {named} depend" in note


def fine_tune(m, n, dtype, *, rank, ratio):
    """A weight and what a full fine-tune of known rank makes of it, as both are stored."""
    W0 = testing.noise(m, n, level=1.0, seed=6).to(dtype)
    B, A = (testing.noise(*shape, level=1.0, seed=7) for shape in ((m, rank), (rank, n)))
    D = B @ A
    return W0, (W0.double() + D * ratio * W0.double().norm() / D.norm()).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("ratio", [0.001, 0.04, 3.0])
@pytest.mark.parametrize("shape", [(256, 256), (500, 100), (96, 700)], ids=str)
def test_a_full_fine_tune_has_its_own_rank_above_rounding_however_large_it_is(shape, ratio, dtype):
    """The values that float32 made of a rank-4 update of 512 x 512 were counted as 75 directions, in float64 as 512."""
    W0, W = fine_tune(*shape, dtype, rank=4, ratio=ratio)
    row = spectra.diagnose({"a.weight": W0}, {"a.weight": W}, device="cpu").rows[0]
    assert (row.floor.dtype, row.rank.above_floor) == (row.base_storage.dtype, 4)
    assert row.rank.above_floor <= (torch.linalg.svdvals(W.double() - W0.double()) > row.floor.edge).sum()
    if dtype == torch.float64:
        assert row.floor.limited_by == "computation"


@pytest.mark.parametrize("spectrum", ["exact", "estimated"])
def test_the_edge_of_the_computation_holds_for_bands_and_for_estimates(spectrum):
    W0, W = fine_tune(800, 900, torch.float32, rank=6, ratio=0.3)
    row = spectra.diagnose({"a.weight": W0}, {"a.weight": W}, spectrum=spectrum, device="cpu").rows[0]
    assert row.rank.above_floor == 6
    assert row.rank.interval("above_floor")[1] <= 7
    assert row.floor.limited_by == row["floor"]["limited_by"] == "computation"


def test_factors_are_resolved_far_below_what_float32_holds():
    """Nine orders of magnitude between two directions: a difference of stored weights could not show the second."""
    B, A = testing.orthogonal(40, 3, seed=8).float(), testing.orthogonal(30, 3, seed=9).float().T
    B = B * torch.tensor([1.0, 1e-9, 0.0])
    found = replace(pair(LowRank(B, A), base_dtype="float64"), base=BASE * 1e-3)
    row = measure(found, decompose(found))
    assert (row.rank.above_floor, row.floor.limited_by) == (2, "computation")
    assert row.floor.edge < 1e-14
    formed = replace(found, update=Dense(B @ A, stored=False))
    assert measure(formed, decompose(formed)).rank.above_floor == 1


def test_a_kronecker_product_is_resolved_as_its_factors_are():
    left, right = torch.diag(torch.tensor([1.0, 1e-5])), torch.diag(torch.tensor([1.0, 1e-5, 0.0]))
    product = Kronecker(torch.nn.functional.pad(left, (0, 3, 0, 6)), torch.nn.functional.pad(right, (0, 3, 0, 2)))
    found = replace(pair(product, base_dtype="float64"), base=BASE * 1e-3)
    row = measure(found, decompose(found))
    assert (row.rank.above_floor, row.floor.limited_by) == (4, "computation")


def test_a_row_counts_over_the_sides_asked_for():
    found = pair(low_rank(), allotted=3, notes=("a note",))
    row = measure(found, decompose(found, Request(k=4, sides=("left", "right"))), k=4)
    assert [block.side for block in row.intruders] == ["left", "right"]
    assert row.examined == 8
    assert row.found == sum(block.count for block in row.intruders)
    assert set(row["intruders"]) == {"left", "right"}
    assert row["update"] == {"kind": "low rank", "allotted_rank": 3, "scaling": None}
    assert (row.place.stack, row["block"], row["module"]) == ("a", 0, "b")
    assert row.notes[0] == "a note"
    assert "from its factors" in row.notes[1]


@pytest.mark.parametrize("update", [low_rank(), dense()], ids=lambda update: update.kind)
@pytest.mark.parametrize("threads", [1, 3])
def test_what_one_walk_adds_up_is_what_each_measure_finds_alone(update, threads, monkeypatch):
    """In blocks of six rows, with an outlier row and a row that is zero."""
    base = BASE.clone()
    base[3] *= 100
    base[7] = 0
    found = replace(pair(update, update_dtype="bfloat16"), base=base)
    seen, walks = decompose(found), []
    monkeypatch.setattr(blocks, "_ELEMENTS", 200)
    monkeypatch.setattr(layer, "over_rows", lambda *given: walks.append(blocks.over_rows(*given)) or walks[-1])
    kept = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        row = measure(found, seen)
        assert row.floor == rounding_floor(base, update, row.floor.dtype, edge_computed=row.floor.edge_computed)
        assert row.norm == norms(base, update, seen.base_values, seen.update_values)
        assert row.magnitude == magnitude(base, update)
    finally:
        torch.set_num_threads(kept)
    assert [len(spans) for spans in walks] == [threads]
    assert row.magnitude.skipped == 1


def test_above_floor_is_the_rank_above_the_rows_own_floor():
    found = pair(dense(), update_dtype="bfloat16")
    row = measure(found, decompose(found))
    assert row.rank.above_floor == (torch.linalg.svdvals(found.update.dense()) > row.floor.edge).sum()
    assert row["floor"]["edge"] == max(row.floor.edge_alike, row.floor.edge_uneven, row.floor.edge_computed)
    assert row["floor"]["limited_by"] == "files"


@pytest.mark.parametrize("status", [NONFINITE, FAILED, OOM])
def test_a_row_that_failed_holds_its_reason_and_no_numbers(status):
    row = unmeasured(pair(dense()), status, "because")
    assert (row.ok, row.status, row.reason, row.found, row.examined) == (False, status, "because", 0, 0)
    assert row["rank"] is row["norm"] is row["floor"] is row["intruders"] is row["spectrum"] is None


def test_a_zero_update_has_rank_and_size_zero():
    row = unmeasured(pair(Dense(torch.zeros(40, 30)), allotted=4), ZERO, "equal")
    assert row["rank"]["effective"] == row["norm"]["ratio"] == row["norm"]["update"] == 0
    assert row["norm"]["cosine"] == pytest.approx(1.0)
    assert row["update"]["allotted_rank"] == 4


def test_a_row_is_a_mapping_that_json_can_hold():
    found = pair(dense())
    row = measure(found, decompose(found))
    assert json.loads(table.to_json(row)).keys() == set(row)
    assert len(row) == len(list(row))
    assert hash(row) == hash(measure(found, decompose(found)))


def test_a_row_read_as_a_mapping_is_built_once(monkeypatch):
    found, built, build = pair(dense()), [], Layer.to_dict
    row = measure(found, decompose(found))
    monkeypatch.setattr(Layer, "to_dict", lambda row: built.append(row) or build(row))
    assert dict(row) == build(row)
    assert (row["rank"]["effective"], len(row)) == (row.rank.effective, len(dict(row)))
    assert len(built) == 1
    row.to_dict()["notes"].append("of one's own")
    assert row["notes"] == list(row.notes)


def test_what_needs_every_value_is_there_only_where_they_are_known():
    base, n = testing.decaying(200, 150, seed=4).float(), 150
    sizes = [Storage("float32", 200 * n, 800 * n)] * 2
    update = Dense(testing.noise(200, n, level=0.1, seed=5).float())
    full = WeightPair("a.weight", base, update, layout_of((200, n)), *sizes)
    exact = measure(full, decompose(full, Request(k=5, method="exact")), k=5)
    assert exact.edges.sigma == pytest.approx(float(full.update.dense().std()), rel=0.1)
    assert None not in (exact.tails.base, exact.tails.tuned, exact.tails.update)
    assert exact["threshold"]["critical"] == exact.threshold.critical > 0
    certified = measure(full, decompose(full, Request(k=5, method="certified")), k=5)
    assert certified.method == "certified"
    assert (certified.threshold, certified.tails.base, certified.tails.tuned) == (None, None, None)
    assert certified.tails.update == exact.tails.update
    assert certified.magnitude == exact.magnitude


def test_an_update_of_factors_has_no_bulk():
    found = pair(low_rank())
    row = measure(found, decompose(found))
    assert (row.edges, row["edges"], row.tails) == (None, None, None)
    assert row.magnitude.dD > 0


@pytest.mark.parametrize("status", [ZERO, ZERO_BASE])
def test_a_zero_update_still_tells_which_factor_is_zero(status):
    B, A = low_rank().factors
    row = unmeasured(pair(LowRank(0 * B, A), scaling=2.0), status, "because")
    assert (row.balance.B, row.balance.ratio, row["update"]["scaling"]) == (0, 0, 2.0)
    assert row["balance"]["A"] == pytest.approx(float(A.norm()), rel=1e-6)


def test_a_row_that_failed_has_no_balance():
    assert unmeasured(pair(low_rank(), scaling=2.0), NONFINITE, "because").balance is None


@pytest.mark.parametrize(
    ("update", "how"),
    [(low_rank(), "the update from its factors, never formed"), (dense(), "directions of the update by full")],
)
def test_a_row_says_how_the_directions_of_its_update_were_had(update, how):
    found = pair(update)
    row = measure(found, decompose(found))
    assert how in row.notes[-1]
    assert row.attribution.directions == row.amplification.rank == (3 if update.factors else 16)
    assert row["attribution"]["direction"] == row.attribution.direction
