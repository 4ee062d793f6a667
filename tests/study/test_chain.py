"""The parts of the study on one tiny model, against PEFT and against spectra; and the whole chain, from a command."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy
import pytest
import torch

import spectra
from benchmarks.study import intervene as interventions
from benchmarks.study import methods, vocabulary
from benchmarks.study import model as models
from benchmarks.study.details import details
from benchmarks.study.finetune import finetune, merged_folder
from benchmarks.study.measure import compact, diagnosis
from benchmarks.study.phases import phases
from benchmarks.study.pretrain import pretrain
from benchmarks.study.runs import PLANS, Run
from benchmarks.study.training import bits_per_byte

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
PLAN = replace(PLANS["smoke"], pretrain_steps=30, steps=8, batch=4, windows=2, tasks=("sums",), general="words")
RUN = Run("sums", "lora", 4, 32.0, 2e-2, 0, 8, 4)


@pytest.fixture(scope="module")
def state(new_state):
    return new_state(PLAN)


@pytest.fixture(scope="module")
def texts(state):
    return state.texts()


@pytest.fixture(scope="module")
def tuned(state, texts):
    row = finetune(RUN, state, texts)
    state.append("runs", row)
    return row


def test_the_base_is_bfloat16_and_is_scored_as_stored(state, texts):
    row = state.row("base", "base")
    model = models.load(state.base, state.device)
    assert all(torch.equal(weight, weight.bfloat16().float()) for weight in model.parameters())
    assert row["losses"]["words"] < 5 < row["losses"]["sums"]
    assert row["parameters"] == sum(weight.numel() for weight in model.parameters())
    pretrain(state, compiled=False)
    assert len(state.rows("base")) == 1


def test_tokens_come_back_in_order(state, texts, sums):
    tokenizer = vocabulary.load(state.folder / "texts" / "vocabulary.json")
    assert tokenizer.decode(texts.train("sums").tolist()).encode() == sums.train


def test_a_run_learns_and_its_row_is_spectras(state, tuned):
    assert tuned["task_loss"] < tuned["history"][0]["task_loss"]
    base = state.row("base", "base")["losses"]
    assert tuned["history"][0]["general_loss"] == pytest.approx(base["words"], rel=1e-5)
    assert tuned["forgetting"] == pytest.approx(tuned["general_loss"] - base["words"], abs=1e-5)
    report = spectra.diagnose(state.base, state.checkpoint(RUN.id), method="exact")
    found, summary = tuned["spectra"], report.summary
    assert found["matrices"] == summary["matrices"] == 14
    assert found["counts"]["count"] == summary["intruders"] > 0
    assert found["energy_share"] == pytest.approx(summary["energy_share"])
    assert found["effective_rank"] == pytest.approx(summary["effective_rank"])
    assert found["update_over_base"] == pytest.approx(summary["update_norm"] / summary["base_norm"])
    table = found["by_k_and_epsilon"]
    assert table["counts"][table["k"].index(10)][table["epsilon"].index(0.5)] == found["counts"]["count"]
    assert sum(part["counts"]["count"] for part in found["by_module"].values()) == found["counts"]["count"]


def test_merging_is_what_peft_does(state, tuned):
    wrapped = methods.prepare(models.load(state.base, state.device), RUN, state.base, {})
    wrapped.load_adapter(state.checkpoint(RUN.id), "trained")
    wrapped.set_adapter("trained")
    theirs = methods.merged(wrapped).state_dict()
    ours = models.load(merged_folder(RUN.id, state), state.device).state_dict()
    assert all(torch.allclose(ours[key], value, atol=1e-6) for key, value in theirs.items())


@pytest.mark.parametrize("method", ["full", *sorted(methods.METHODS)])
def test_every_method_is_stored_as_it_was_trained(state, texts, method):
    """What spectra reads from the files moves the base to the very weights that were scored."""
    full = method == "full"
    run = Run("sums", method, None if full else 3, None if full else 6.0, 1e-2, 1, 8, 4)
    row = finetune(run, state, texts)
    folder, initial = state.checkpoint(run.id), None if methods.starts_from_the_base(run) else state.initial(run.id)
    model = models.load(folder if full else state.base, state.device)
    with spectra.open_pairs(state.base, folder, initial=initial, include=[models.BLOCKS]) as pairs, torch.no_grad():
        for pair in pairs:
            model.get_parameter(pair.key).copy_(pair.to_stored(pair.base + pair.update.dense()))
    assert bits_per_byte(model, texts.held_out["sums"]) == pytest.approx(row["task_loss"], rel=2e-4)
    assert compact(diagnosis(state.base, folder, initial))["counts"] == row["spectra"]["counts"]


def test_only_what_a_method_trains_is_trained(state):
    count = {
        method: sum(
            weight.numel()
            for weight in methods.prepare(
                models.load(state.base, state.device), replace(RUN, method=method), state.base, {}
            ).parameters()
            if weight.requires_grad
        )
        for method in ("lora", "b-only", "vera", "full")
    }
    size = models.SIZES["tiny"]
    shapes = [(size.width, size.width)] * 4 + [(size.inner, size.width)] * 2 + [(size.width, size.inner)]
    assert count["lora"] == 4 * size.layers * sum(m + n for m, n in shapes)
    assert count["b-only"] == 4 * size.layers * sum(m for m, _ in shapes)
    assert count["vera"] < count["b-only"] < count["full"]


def test_interventions_move_what_they_say(state, texts, tuned):
    row = interventions.intervene(RUN, state, texts)
    assert row["intruders"] == tuned["spectra"]["counts"]["count"]
    found = {(one["kind"], one["scale"]): one for one in row["scaled"]}
    trained = found["update", 1.0]
    assert trained["moved"] == 0
    assert trained["task_loss"] == pytest.approx(tuned["task_loss"], rel=1e-4)
    assert found["update", 0.0]["general_loss"] == pytest.approx(state.row("base", "base")["losses"]["words"], rel=1e-4)
    blocks = [(row["intruders"], row["norm"]) for row in diagnosis(state.base, state.checkpoint(RUN.id)).rows]
    removed = sum(
        sigma**2
        for block, _ in blocks
        for sigma, verdict in zip(block["sigma"], block["verdict"], strict=True)
        if verdict != "kept"
    )
    update = sum(norm["update"] ** 2 for _, norm in blocks)
    assert found["all intruders", 0.0]["moved"] == pytest.approx((removed / update) ** 0.5, rel=1e-3)
    for scale in interventions.SCALES:
        assert found["update", scale]["moved"] == pytest.approx(abs(scale - 1), rel=1e-4)
        matched = found["uniform", scale]
        if matched["moved"] is not None:
            assert matched["moved"] == pytest.approx(found["all intruders", scale]["moved"], rel=1e-3)
        assert found["top intruder", scale]["moved"] <= found["all intruders", scale]["moved"] + 1e-6


def test_the_phase_curve_at_one_is_the_count(state, texts, tuned):
    row = phases(RUN, state, texts)
    assert row["totals"]["count"][row["scales"].index(1.0)] == tuned["spectra"]["counts"]["count"]
    assert row["totals"]["new"][0] == row["totals"]["rotated"][0] == 0
    assert row["crossed"] == sum(one["exact"] is not None for one in row["critical"])


def test_the_stored_arrays_add_up_to_the_row(state, texts, tuned):
    row = details(RUN, state, texts)
    with numpy.load(state.results / row["file"]) as arrays:
        assert (arrays["verdict"] > 0).sum() == tuned["spectra"]["counts"]["count"]
        assert ((arrays["similarity"] < 0.5) == (arrays["verdict"] > 0)).all()
        middle = list(arrays["epsilon"]).index(0.5)
        assert arrays["counts"][:, list(arrays["k"]).index(10), middle].sum() == (arrays["verdict"] > 0).sum()
        assert (arrays["spectrum_update"][:, :4] > 0).all()
        assert numpy.isnan(arrays["spectrum_update"][:, 4:]).all()
        assert arrays["map_q_proj"].shape == (64, 64)


@pytest.mark.slow
def test_one_command_runs_the_whole_chain_and_the_next_does_nothing_twice(tmp_path):
    def study(*arguments):
        command = [sys.executable, "-m", "benchmarks.study", "--smoke", "--folder", tmp_path, *arguments]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, cwd=ROOT)

    first = study()
    assert first.returncode == 0, first.stdout + first.stderr
    results = tmp_path / "results"
    found = json.loads((results / "summary.json").read_text())
    assert found["runs"]["ok"] == found["runs"]["planned"] > 20
    assert found["runs"]["failed"] == found["runs"]["missing"] == []
    assert all(found[part] for part in ("correlations", "interventions", "sequences", "budget"))
    assert "Nothing: every planned run is there." in first.stdout
    before = (results / "runs.jsonl").read_bytes()
    again = study("--stage", "runs", "--stage", "summary")
    assert again.returncode == 0, again.stderr
    assert (results / "runs.jsonl").read_bytes() == before
    assert json.loads((results / "summary.json").read_text()) == found
