"""A diagnosis holds exactly what its schema promises, whatever the input's container or faults."""

import csv
import io
import json
import math
import shutil

import numpy as np
import pytest
import torch

from spectra import testing
from spectra.analysis.diagnosis import diagnose
from spectra.analysis.settings import Settings
from spectra.errors import UsageError
from spectra.loaders.pairing import open_pairs

# DESIGN's JSON schema 1: other programs read these names.
TOP = {"schema", "provenance", "summary", "findings", "skipped", "layers"}
LAYER = {
    "key", "name", "index", "stack", "block", "module", "shape", "status", "reason", "method", "update", "dtype",
    "parameters", "bytes", "rank", "norm", "floor", "intruders", "spectrum", "attribution", "amplification", "balance",
    "magnitude", "edges", "tails", "threshold", "notes",
}  # fmt: skip
RANK = {
    "effective", "stable", "participation", "energy_90", "energy_95", "energy_99", "numerical", "above_floor",
    "allotted", "utilisation", "error",
}  # fmt: skip
NORM = {"base", "update", "ratio", "base_spectral", "update_spectral", "cosine", "base_largest", "tuned_largest"}
ATTRIBUTION = {"directions", "direction", "direction_share", "rest"}
AMPLIFICATION = {"rank", "factor", "within", "by_chance"}
FLOOR = {"dtype", "sigma", "edge_alike", "edge_uneven", "edge_computed", "lost", "edge", "limited_by"}
INTRUDERS = {
    "k", "epsilon", "side", "count", "degenerate", "rotated", "new", "similarity", "similarity_bound", "nearest",
    "sigma", "relative_gap", "novelty", "novelty_span", "cluster", "base_share", "update_share", "verdict", "null",
    "null_quantile", "margin", "energy_share", "residual", "steps", "missed", "sweep",
}  # fmt: skip
PER_VECTOR = (
    "similarity", "similarity_bound", "nearest", "sigma", "relative_gap", "novelty", "cluster", "base_share",
    "update_share", "verdict", "null_quantile",
)  # fmt: skip


def document(*arguments, **options):
    return json.loads(diagnose(*arguments, **options).to_json())


def measured(row):
    """What is measured of a row: equal for equal matrices, whatever file they came from."""
    return {name: row[name] for name in ("key", "shape", "status", "rank", "norm", "floor", "intruders", "spectrum")}


# --- schema


def test_json_has_exactly_the_fields_of_schema_1(base, tuned):
    found = document(base, tuned)
    assert found["schema"] == 1
    assert set(found) == TOP
    assert len(found["layers"]) == 16
    for layer in found["layers"]:
        assert set(layer) == LAYER
        assert set(layer["rank"]) == RANK
        assert set(layer["norm"]) == NORM
        assert set(layer["floor"]) == FLOOR
        assert set(layer["intruders"]) == INTRUDERS
        assert set(layer["intruders"]["sweep"]) == {"k", "epsilon", "count"}
        assert set(layer["spectrum"]) == {"index", "base", "tuned", "update"}
        assert set(layer["update"]) == {"kind", "allotted_rank", "scaling"}
        assert set(layer["attribution"]) == ATTRIBUTION
        assert set(layer["amplification"]) == AMPLIFICATION
        assert layer["balance"] is None
        assert layer["status"] == "ok"
    assert all(set(entry) == {"key", "reason"} for entry in found["skipped"])


@pytest.mark.parametrize("k", [1, 7, 40])
def test_arrays_hold_one_entry_a_vector(base, tuned, k):
    for layer in document(base, tuned, settings=Settings(k=k))["layers"]:
        block = layer["intruders"]
        assert (block["k"], block["epsilon"], block["side"]) == (k, 0.5, "left")
        assert {len(block[name]) for name in PER_VECTOR} == {min(k, *layer["shape"])}
        assert {len(layer["attribution"][name]) for name in ATTRIBUTION - {"directions"}} == {min(k, *layer["shape"])}
        assert block["count"] == block["degenerate"] + block["rotated"] + block["new"]


def test_both_sides_give_one_block_each(base, tuned):
    left, right, both = (diagnose(base, tuned, settings=Settings(side=side)) for side in ("left", "right", "both"))
    for one, other, pair in zip(left.rows, right.rows, both.rows, strict=True):
        assert pair["intruders"] == {"left": one["intruders"], "right": other["intruders"]}
        assert pair.found == one.found + other.found
        assert pair.examined == one.examined + other.examined


def test_numbers_that_json_cannot_hold_are_null():
    """A lone singular value has no neighbour, and its gap is infinite."""
    found = document({"w.weight": torch.ones(1, 9)}, {"w.weight": torch.eye(9)[:1]})
    assert found["layers"][0]["intruders"]["relative_gap"] == [None]


def test_a_zero_base_has_no_directions_to_compare_with():
    found = document({"w.weight": torch.zeros(4, 9)}, {"w.weight": torch.ones(4, 9)})
    assert found["layers"][0]["status"] == "zero_base"
    assert found["layers"][0]["intruders"] is None
    assert found["summary"]["intruders"] == 0


def test_a_row_reads_like_its_json(base, tuned):
    row = diagnose(base, tuned).rows[0]
    assert row["rank"]["effective"] == row.rank.effective
    assert dict(row) == row.to_dict()
    assert set(row) == LAYER


# --- statuses


def test_a_zero_update_is_a_row_of_zeros(base, tuned):
    key = "model.layers.1.mlp.up_proj.weight"
    found = document(base, {**tuned, key: base[key]})
    (layer,) = [layer for layer in found["layers"] if layer["status"] == "zero_update"]
    assert layer["key"] == key
    assert layer["rank"]["effective"] == layer["rank"]["numerical"] == layer["norm"]["update"] == 0
    assert layer["norm"]["base"] == pytest.approx(base[key].norm().item(), rel=1e-6)
    assert (layer["intruders"]["count"], layer["intruders"]["similarity"]) == (0, [])
    assert found["summary"]["zero_updates"] == 1
    assert found["summary"]["failed"] == 0


def test_a_row_that_is_not_finite_leaves_all_others_as_they_were(base, tuned):
    key = "model.layers.0.self_attn.k_proj.weight"
    spoilt = dict(tuned)
    spoilt[key] = tuned[key].clone()
    spoilt[key][3, 4] = math.nan
    clean, found = diagnose(base, tuned), diagnose(base, spoilt)
    for one, other in zip(clean.rows, found.rows, strict=True):
        if one.key == key:
            assert other.status == "nonfinite"
            assert "1 value that is NaN or infinite, first at [3, 4]" in other.reason
            assert other.rank is other.norm is other.spectrum is None
        else:
            assert measured(one) == measured(other)
    assert found.failed == 1


def test_an_update_that_overflows_is_a_row_not_a_crash():
    """Both weights are finite, their difference in float32 is not."""
    weight = torch.full((4, 4), 3e38)
    found = diagnose({"w.weight": weight}, {"w.weight": -weight})
    assert found.rows[0].status == "nonfinite"
    assert "the update holds 16 values that are NaN or infinite" in found.rows[0].reason
    json.loads(found.to_json())


# --- the same whatever it comes from


@pytest.mark.parametrize("container", ["safetensors", "sharded", "bin"])
def test_a_file_gives_what_the_state_dict_gives(container, base, tuned, tmp_path):
    paths = [
        testing.save_checkpoint(tmp_path / name, tensors, container=container)
        for name, tensors in (("b", base), ("t", tuned))
    ]
    from_files = {row.key: measured(row) for row in diagnose(*paths).rows}
    in_memory = {row.key: measured(row) for row in diagnose(base, tuned).rows}
    assert from_files == in_memory


def test_shard_order_does_not_matter(base, tuned, tmp_path):
    """The same tensors dealt to the shards in another order."""
    shuffled = dict(sorted(tuned.items(), key=lambda item: item[0][::-1]))
    one = testing.save_checkpoint(tmp_path / "one", tuned, container="sharded", shards=3)
    other = testing.save_checkpoint(tmp_path / "other", shuffled, container="sharded", shards=4)
    assert [measured(row) for row in diagnose(base, one).rows] == [measured(row) for row in diagnose(base, other).rows]


def test_a_run_repeats_itself_to_the_last_digit(folders):
    one, other = (diagnose(folders / "base", folders / "lora") for _ in range(2))
    assert one.rows == other.rows
    assert one.summary == other.summary
    assert one.findings == other.findings


def test_an_adapter_gives_what_its_merged_weights_give(base, folders):
    """Same matrices, same counts; only the path to the update's spectrum differs."""
    factors = testing.lora(base, ("q_proj", "v_proj", "down_proj"), strength=0.6, seed=2)
    merged = dict(base)
    for module, (B, A) in factors.items():
        merged[f"{module}.weight"] = base[f"{module}.weight"] + 2 * B @ A
    by_key = {row.key: row for row in diagnose(base, merged).rows}
    adapter = diagnose(folders / "base", folders / "lora")
    assert len(adapter.rows) == 6
    for row in adapter.rows:
        other = by_key[row.key]
        np.testing.assert_allclose(row.intruders[0].similarity, other.intruders[0].similarity, atol=1e-3)
        assert row.rank.effective == pytest.approx(other.rank.effective, rel=1e-3)
        assert row.norm.ratio == pytest.approx(1.2, rel=1e-5)  # strength 0.6, alpha / r = 2
        assert (row.update_kind, other.update_kind) == ("low rank", "dense")
        assert row.rank.allotted == 4


# --- summary


def test_the_summary_adds_up(folders):
    found = diagnose(folders / "base", folders / "full", settings=Settings(side="both"))
    rows, summary = found.rows, found.summary
    blocks = [side for row in rows for side in row.intruders]
    assert summary["matrices"] == summary["measured"] == len(rows) == 16
    assert summary["intruders"] == sum(block.count for block in blocks) > 0
    assert summary["intruders"] == summary["degenerate"] + summary["rotated"] + summary["new"]
    assert summary["examined"] == sum(len(block.similarity) for block in blocks)
    assert summary["matrices_with_intruders"] == sum(row.found > 0 for row in rows)
    for groups in (summary["by_block"], summary["by_module"]):
        assert sum(group["intruders"] for group in groups) == summary["intruders"]
        assert sum(group["examined"] for group in groups) == summary["examined"]
        assert sum(group["matrices"] for group in groups) == summary["measured"]
    assert summary["effective_rank"] == pytest.approx(float(np.median([row.rank.effective for row in rows])))
    assert summary["update_ratio"] == pytest.approx(float(np.median([row.norm.ratio for row in rows])))
    assert summary["update_ratio_largest"] == max(row.norm.ratio for row in rows)
    assert summary["update_norm"] == pytest.approx(sum(row.norm.update**2 for row in rows) ** 0.5)
    assert 0 <= summary["energy_share"] <= 1


def test_the_norm_of_the_base_has_the_matrices_that_did_not_change(base, tuned, folders):
    """So that update over base is that of the model, however much of it was frozen."""
    frozen = {key: base[key] if "q_proj" in key else tensor for key, tensor in tuned.items()}
    whole = sum(W0.double().square().sum().item() for W0 in base.values() if W0.ndim > 1) ** 0.5
    for model in (frozen, tuned):
        found = diagnose(base, model).summary
        assert found["base_norm"] == pytest.approx(whole)
    assert diagnose(base, frozen).summary["zero_updates"] == 2
    adapter = diagnose(folders / "base", folders / "lora")
    assert adapter.summary["base_norm"] < whole
    assert adapter.summary["base_norm"] == pytest.approx(sum(row.norm.base**2 for row in adapter.rows) ** 0.5)


def test_blocks_come_in_order_and_the_rest_last(folders):
    names = [group["name"] for group in diagnose(folders / "base", folders / "full").summary["by_block"]]
    assert names == [0, 1, None]


def test_parameters_and_bytes_are_those_of_the_files(base, folders):
    summary = diagnose(folders / "base", folders / "lora").summary
    assert summary["parameters"]["base"] == sum(tensor.numel() for tensor in base.values())
    assert summary["parameters"]["tuned"] == 2 * (2 * 4 * (32 + 32) + 4 * (32 + 64))
    assert summary["bytes"]["tuned"] == 4 * summary["parameters"]["tuned"]
    assert summary["parameters"]["share"] == pytest.approx(
        summary["parameters"]["tuned"] / summary["parameters"]["base"]
    )
    assert (summary["method"], summary["allotted_ranks"]) == ("LoRA", [4])


def test_a_model_without_a_measured_row_has_no_medians(base):
    summary = diagnose(base, base).summary
    assert summary["measured"] == summary["intruders"] == 0
    assert summary["effective_rank"] is summary["update_ratio"] is summary["energy_share"] is None


# --- tables


def test_csv_has_one_line_a_matrix(folders):
    found = diagnose(folders / "base", folders / "full", settings=Settings(side="both"))
    lines = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert [line["key"] for line in lines] == [row.key for row in found.rows]
    assert float(lines[3]["rank.effective"]) == found.rows[3].rank.effective
    assert int(lines[3]["intruders.right.count"]) == found.rows[3].intruders[1].count
    assert not any("spectrum" in name or "sweep" in name for name in lines[0])


def test_pandas_gets_a_line_a_matrix_and_numbers_as_numbers(folders):
    pytest.importorskip("pandas")
    found = diagnose(folders / "base", folders / "lora")
    frame = found.to_pandas()
    assert len(frame) == len(found.rows)
    assert frame["intruders.count"].sum() == found.summary["intruders"]
    assert frame["rank.effective"].dtype.kind == "f"


def test_what_is_written_is_what_is_returned(folders, tmp_path):
    found = diagnose(folders / "base", folders / "lora")
    assert found.to_json(tmp_path / "report.json") == (tmp_path / "report.json").read_text()
    assert found.to_csv(tmp_path / "report.csv") == (tmp_path / "report.csv").read_text()


# --- progress and provenance


def test_progress_is_told_every_matrix_and_the_end(folders):
    calls = []
    found = diagnose(folders / "base", folders / "lora", progress=lambda *call: calls.append(call))
    total = len(found.rows)
    assert calls == [(at, total, row.key) for at, row in enumerate(found.rows)] + [(total, total, "")]


@pytest.mark.parametrize("container", ["safetensors", "sharded", "bin"])
def test_no_absolute_path_reaches_the_report(container, base, tuned, tmp_path):
    """A report is shown to others: it names files, never the folders of the machine it was made on."""
    secret = tmp_path / "secret-user"
    paths = [
        testing.save_checkpoint(secret / name, tensors, container=container)
        for name, tensors in (("b", base), ("t", tuned))
    ]
    text = diagnose(*paths).to_json()
    assert "secret-user" not in text
    assert str(tmp_path) not in text


def test_provenance_names_what_a_reader_needs_to_repeat_it(folders):
    provenance = document(folders / "base", folders / "lora", settings=Settings(k=5, epsilon=0.4, device="cpu"))[
        "provenance"
    ]
    assert (provenance["k"], provenance["epsilon"], provenance["side"], provenance["device"]) == (5, 0.4, "left", "cpu")
    assert {"spectra", "torch", "numpy", "python", "threads", "dtype", "seed", "written", "seconds"} <= set(provenance)
    assert provenance["base"]["architecture"] == "llama"
    (file,) = provenance["tuned"]["files"]
    assert file["name"] == "adapter_model.safetensors"
    assert len(file["header_sha256"]) == 64


def test_provenance_says_how_the_models_were_read(folders, tmp_path):
    """What was left at its default is not in it; an alpha of 0 is no default; of `initial` the name alone."""

    def reading(**told):
        return document(folders / "base", folders / "lora", **told)["provenance"]["reading"]

    assert reading() == {}
    assert reading(include="q_proj", exclude=["layers.0"], allow_unmatched=True) == {
        "include": ["q_proj"],
        "exclude": ["layers.0"],
        "allow_unmatched": True,
    }
    assert reading(initial=folders / "lora", include=["q_proj"]) == {"include": ["q_proj"], "initial": "lora"}
    config = shutil.copytree(folders / "lora", tmp_path / "lora") / "adapter_config.json"
    told = {key: value for key, value in json.loads(config.read_text()).items() if key != "lora_alpha"}
    config.write_text(json.dumps(told))
    with open_pairs(folders / "base", tmp_path / "lora", alpha=0.0) as pairs:
        assert pairs.reading == {"alpha": 0.0}


@pytest.mark.parametrize(("k", "said"), [(10, False), (100_000, True)])
def test_a_k_beyond_every_matrix_is_said(folders, k, said):
    notes = document(folders / "base", folders / "lora", settings=Settings(k=k))["provenance"]["notes"]
    assert any(f"k is {k}, and no matrix has more than" in note for note in notes) is said


# --- options


@pytest.mark.parametrize(
    "options",
    [{"k": 0}, {"epsilon": 0}, {"epsilon": 1.5}, {"side": "top"}, {"method": "magic"}, {"device": "abacus"}],
    ids=lambda options: next(iter(options)),
)
def test_a_wrong_option_is_refused_before_anything_is_read(options):
    with pytest.raises(UsageError):
        Settings(**options)


def test_a_wrong_side_is_told_the_nearest_right_one():
    with pytest.raises(UsageError, match=r"side 'lefft' is unknown; did you mean 'left'\?"):
        Settings(side="lefft")


def test_include_and_exclude_choose_the_matrices(base, tuned):
    found = diagnose(base, tuned, include=["q_proj", "v_proj"], exclude=["model.layers.1.*"])
    assert [row.key for row in found.rows] == [
        "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.v_proj.weight",
    ]  # fmt: skip
    left_out = {entry.key for entry in found.skipped if "include / exclude" in entry.reason}
    assert "model.layers.1.self_attn.q_proj.weight" in left_out


# --- estimated spectra


@pytest.fixture(scope="module")
def estimated():
    base = testing.decaying(160, 200, seed=1).float()
    tuned = base + testing.noise(160, 200, level=0.2, seed=2).float()
    models = {"w.weight": base}, {"w.weight": tuned}
    return {spectrum: diagnose(*models, settings=Settings(spectrum=spectrum)) for spectrum in ("exact", "estimated")}


def test_an_estimated_row_says_so_and_by_how_much(estimated):
    exact, found = (json.loads(estimated[name].to_json())["layers"][0] for name in ("exact", "estimated"))
    assert exact["rank"]["error"] is None
    assert set(found["rank"]["error"]) == RANK - {"allotted", "error"}
    for name in RANK - {"allotted", "utilisation", "error"}:
        assert abs(found["rank"][name] - exact["rank"][name]) <= found["rank"]["error"][name] + 1e-4, name
    assert found["rank"]["error"]["effective"] > 0
    assert "estimated from 16 random vectors" in found["notes"][-1]
    assert len(found["spectrum"]["update"]) == 10
    assert {name: found[name] for name in ("norm", "floor")} == {name: exact[name] for name in ("norm", "floor")} | {
        "norm": exact["norm"] | {"update_spectral": pytest.approx(exact["norm"]["update_spectral"], rel=1e-3)},
        "floor": exact["floor"]
        | {name: pytest.approx(exact["floor"][name], rel=1e-3) for name in ("edge_computed", "edge")},
    }


def test_the_option_is_in_the_provenance(estimated):
    assert {name: report.provenance["spectrum"] for name, report in estimated.items()} == {
        "exact": "exact",
        "estimated": "estimated",
    }


def test_an_estimate_is_a_column_a_rank_in_csv(estimated):
    (row,) = csv.DictReader(io.StringIO(estimated["estimated"].to_csv()))
    assert float(row["rank.error.effective"]) > 0
    assert "rank.error" in csv.DictReader(io.StringIO(estimated["exact"].to_csv())).fieldnames
