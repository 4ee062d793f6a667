"""One row of a report: what is measured of one pair, in which dtype's light, and what is not measured."""

import json
from dataclasses import replace

import pytest
import torch

from spectra import table, testing
from spectra.engine.choose import Request, decompose
from spectra.layout import layout_of
from spectra.metrics import blocks, layer
from spectra.metrics.layer import Layer, measure, unmeasured
from spectra.metrics.magnitude import magnitude
from spectra.metrics.noise import rounding_floor
from spectra.metrics.norms import norms
from spectra.metrics.status import FAILED, NONFINITE, OOM, ZERO, ZERO_BASE
from spectra.updates import Dense, LowRank, Storage, WeightPair

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
    ],
)
def test_the_floor_is_that_of_the_dtype_a_weight_was_rounded_to(update, stored, floor):
    found = pair(update, *stored)
    assert measure(found, decompose(found)).floor.dtype == floor


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
        assert row.floor == rounding_floor(base, update, row.floor.dtype)
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
    assert row["floor"]["edge"] == max(row.floor.edge_alike, row.floor.edge_uneven)


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
