"""One pass over one base for several models gives what a diagnosis of each gives."""

import csv
import io
import json

import pytest
import torch

from spectra import testing
from spectra.analysis.comparison import compare
from spectra.analysis.diagnosis import diagnose
from spectra.analysis.settings import Settings
from spectra.engine import dense
from spectra.errors import UsageError

NAMES = ("lora", "full", "other")


@pytest.fixture(scope="module")
def compared(folders):
    return compare(folders / "base", {name: folders / name for name in NAMES})


@pytest.mark.parametrize("name", NAMES)
def test_lockstep_gives_the_rows_of_a_separate_diagnosis(name, folders, compared):
    alone = diagnose(folders / "base", folders / name)
    assert compared.models[name].rows == alone.rows
    assert compared.models[name].summary == alone.summary
    assert compared.models[name].findings == alone.findings
    assert compared.models[name].skipped == alone.skipped


def test_the_order_of_the_models_does_not_matter(folders, compared):
    other = compare(folders / "base", {name: folders / name for name in reversed(NAMES)})
    for name in NAMES:
        assert other.models[name].rows == compared.models[name].rows
    assert [standing.name for standing in other.standings] == [standing.name for standing in compared.standings]


def test_the_base_is_decomposed_once_for_all_models(folders, monkeypatch):
    """Three models share q_proj: one SVD of its base, three of the tuned weights, one of the update without factors."""
    sizes, original = [], dense.svd
    monkeypatch.setattr(
        dense, "svd", lambda matrix, **options: sizes.append(matrix.shape) or original(matrix, **options)
    )
    key = "model.layers.0.self_attn.q_proj.weight"
    compare(folders / "base", {name: folders / name for name in NAMES}, include=[key])
    assert len(sizes) == 1 + 3 + 1


def test_models_that_read_a_square_weight_both_ways_do_not_share_its_decomposition(tmp_path):
    """Without a config a square weight is read transposed by an adapter with fan_in_fan_out, and as it is otherwise."""
    weight = {"h.0.w.weight": testing.decaying(48, 48, seed=1).float()}
    moved = {"h.0.w.weight": weight["h.0.w.weight"] + testing.noise(48, 48, level=0.8, seed=3).float()}
    base = testing.save_checkpoint(tmp_path / "base", weight, config={})
    testing.save_lora(tmp_path / "lora", testing.lora(weight, ["w"], seed=2), alpha=4, fan_in_fan_out=True)
    testing.save_checkpoint(tmp_path / "full", moved, config={})
    together = compare(base, {"lora": tmp_path / "lora", "full": tmp_path / "full"})
    for name, model in together.models.items():
        assert model.rows == diagnose(base, tmp_path / name).rows


def test_a_fault_in_one_model_is_no_fault_of_the_others(base, tuned, folders):
    key = "model.layers.0.self_attn.q_proj.weight"
    bad = {**tuned, key: torch.full_like(tuned[key], torch.nan)}
    found = compare(base, {"bad": bad, "good": tuned})
    assert found.failed == found.models["bad"].failed == 1
    assert found.models["good"].rows == diagnose(base, tuned).rows


def test_json_holds_a_report_of_schema_1_a_model(compared):
    document = json.loads(compared.to_json())
    assert set(document) == {"schema", "models", "ranking", "ranking_rule", "claims", "guide", "matrix", "similarity"}
    assert list(document["models"]) == list(NAMES)
    assert {report["schema"] for report in document["models"].values()} == {1}
    assert sorted(entry["name"] for entry in document["ranking"]) == sorted(NAMES)


def test_csv_has_one_line_a_matrix_and_model(compared):
    lines = list(csv.DictReader(io.StringIO(compared.to_csv())))
    rows = [(name, row.key) for name, model in compared.models.items() for row in model.rows]
    assert [(line["model"], line["key"]) for line in lines] == rows


def test_the_matrix_shown_is_one_that_all_models_change(compared):
    for model in compared.models.values():
        assert compared.matrix in {row.key for row in model.rows}
    assert set(compared.maps) == set(NAMES)


def test_the_map_holds_the_similarities_that_were_counted(compared):
    """Its best row over all base vectors is the row's `similarity`."""
    for name, model in compared.models.items():
        (row,) = [row for row in model.rows if row.key == compared.matrix]
        found = compared.maps[name]
        assert found.values.shape == (32, 32)
        assert found.best[:10] == pytest.approx(row.intruders[0].similarity, abs=1e-6)
        assert found.null == row.intruders[0].null
        assert found.values.max(0) == pytest.approx(found.best)


def test_a_map_shows_64_leading_vectors_and_the_best_over_all():
    """A direction may resemble a base vector beyond the 64 rows shown: that is no intruder."""
    W0 = testing.decaying(90, 80, seed=1)
    U, _, Vh = torch.linalg.svd(W0, full_matrices=False)
    W = W0 + 2 * torch.outer(U[:, 79], Vh[79])  # the base's weakest direction leads
    found = compare({"w.weight": W0.float()}, {"tuned": {"w.weight": W.float()}}, settings=Settings(side="right"))
    shown = found.maps["tuned"]
    assert shown.values.shape == (64, 64)
    assert shown.best.shape == (64,)
    assert (shown.values[:, 0].max(), shown.best[0]) == pytest.approx((0.0, 1.0), abs=1e-4)
    assert shown.side == "right"


def test_a_matrix_can_be_asked_for(folders):
    key = "model.layers.1.mlp.down_proj.weight"
    found = compare(folders / "base", {name: folders / name for name in NAMES}, matrix=key)
    assert found.matrix == key
    assert set(found.maps) == {"lora", "full"}  # the other adapter does not touch it


def test_an_unknown_matrix_is_refused_with_the_nearest(folders):
    with pytest.raises(UsageError, match=r"Did you mean 'model\.layers\.1\.mlp\.down_proj\.weight'\?"):
        compare(folders / "base", {"full": folders / "full"}, matrix="model.layers.1.mlp.down_prj.weight")


def test_nothing_to_compare_is_refused(folders):
    with pytest.raises(UsageError, match="nothing to compare"):
        compare(folders / "base", {})


def test_progress_counts_the_matrices_of_all_models(folders, compared):
    calls = []
    compare(folders / "base", {name: folders / name for name in NAMES}, progress=lambda *call: calls.append(call))
    total = sum(len(model.rows) for model in compared.models.values())
    assert [done for done, _, _ in calls] == list(range(total + 1))
    assert {of for _, of, _ in calls} == {total}


def test_fewest_intruders_stand_first_and_the_unchanged_last(base, folders):
    mild = {key: tensor + 1e-3 * tensor.roll(1, 0) if tensor.ndim == 2 else tensor for key, tensor in base.items()}
    found = compare(base, {"nothing": base, "lora": folders / "lora", "mild": mild})
    assert [standing.name for standing in found.standings] == ["mild", "lora", "nothing"]
    assert found.standings[2].place is None
    assert found.standings[2].effective_rank is None
    assert found.standings[2].share is None


def test_ties_of_the_base_do_not_count_against_a_model():
    """Ten degenerate intruders, and it still ranks like one without any."""
    base = {"w.weight": testing.tied(256, 256, 64, seed=1).float()}
    tuned = {"w.weight": base["w.weight"] + testing.noise(256, 256, level=1e-6, seed=1).float()}
    found = compare(base, {"tied": tuned})
    assert found.models["tied"].summary["degenerate"] == 10
    assert found.standings[0].share == 0


def test_a_list_of_models_is_refused_in_a_sentence(base, tuned):
    with pytest.raises(UsageError, match="must map names to models"):
        compare(base, [tuned])
