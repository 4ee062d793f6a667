"""The table of runs, and the rows that a study keeps."""

import dataclasses
import json

import pytest

from benchmarks.study.intervene import UPDATE
from benchmarks.study.methods import METHODS
from benchmarks.study.runs import FULL, PLANS, grid, waves
from benchmarks.study.state import State
from benchmarks.study.workers import work


@pytest.mark.parametrize("name", sorted(PLANS))
def test_every_run_is_there_once_and_after_the_run_it_needs(name):
    plan = PLANS[name]
    runs = grid(plan)
    ids = [run.id for run in runs]
    assert len(set(ids)) == len(ids)
    place = {name: at for at, name in enumerate(ids)}
    for run in runs:
        assert run.method == FULL or run.method in METHODS
        assert not run.parent or place[run.parent] < place[run.id]
        assert run.task in plan.tasks
    first, second = waves(runs)
    assert [*first, *second] == runs
    assert not any(run.parent for run in first)
    assert {run.parent for run in second} - {""} <= {run.id for run in first}


def test_the_study_has_what_the_question_asks_for():
    plan, runs = PLANS["study"], grid(PLANS["study"])
    main = {(run.rank, run.alpha, run.seed) for run in runs if run.task == plan.tasks[0] and run.method == "lora"}
    for rank in plan.ranks:
        for seed in range(3):
            assert {(rank, 2.0 * rank, seed), (rank, 16.0, seed)} <= main
    assert {run.method for run in runs} == {FULL, *METHODS}
    for method in (FULL, *METHODS):
        assert len({run.learning_rate for run in runs if run.method == method}) >= 2


@pytest.fixture
def state(tmp_path):
    return State(tmp_path, tmp_path / "results", PLANS["smoke"], "cpu")


def test_a_row_that_a_kill_cut_short_is_made_again(state):
    state.append("runs", {"id": "a", "status": "ok", "x": 1.23456789})
    with (state.results / "runs.jsonl").open("a") as file:
        file.write('{"id": "b", "sta')
    assert [row["id"] for row in state.rows("runs")] == ["a"]
    state.append("runs", {"id": "b", "status": "ok"})
    assert [row["id"] for row in state.rows("runs")] == ["a", "b"]
    assert state.row("runs", "a")["x"] == 1.23457


def test_a_failed_row_is_tried_again_and_the_last_one_counts(state):
    state.append("runs", {"id": "a", "status": "failed", "reason": "no memory"})
    assert state.done("runs") == set()
    state.append("runs", {"id": "a", "status": "ok", "reason": ""})
    assert state.done("runs") == {"a"}
    assert [row["status"] for row in state.rows("runs")] == ["ok"]


def test_one_fault_is_a_row_and_the_others_go_on(state, monkeypatch, capsys):
    monkeypatch.setattr(State, "texts", lambda self: None)
    jobs = [("good", 1.0), ("bad", 0.0), ("infinite", float("inf")), ("last", 2.0)]

    def job(task, _state, _texts):
        return {"id": f"{task}", "status": "ok", "reason": "", "x": task / task if task < 9 else task}

    assert work(state, "runs", job, jobs, workers=1, until=float("inf")) == 0
    found = {row["id"]: row for row in state.rows("runs")}
    assert found["bad"]["reason"].startswith("ZeroDivisionError")
    assert found["infinite"]["status"] == "failed"
    assert [row["status"] for row in found.values()].count("ok") == 2
    assert "bad failed ZeroDivisionError" in capsys.readouterr().out


def test_after_the_time_nothing_is_begun(state, monkeypatch):
    monkeypatch.setattr(State, "texts", lambda self: None)
    assert work(state, "runs", lambda *_: pytest.fail("begun"), [("a", 1), ("b", 2)], workers=1, until=0) == 2
    assert state.rows("runs") == []


def test_rows_are_plain_data():
    run = grid(PLANS["smoke"])[0]
    assert json.loads(json.dumps(run.to_dict()))["id"] == run.id
    assert dataclasses.asdict(run)["saved"] == tuple(run.to_dict()["saved"])
    assert UPDATE == "update"
