"""The study's figures: drawn from the stored results, as committed, small, and every one of them explained."""

import re
from pathlib import Path

import matplotlib
import pytest

from benchmarks.study.correlation import configuration
from benchmarks.study.figures.catalogue import FIGURES
from benchmarks.study.figures.tables import AbsentError, Tables
from spectra.plots.style import render

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "study" / "results"
FOLDER = ROOT / "figures" / "study"
DRAWN_WITH = "3.11"  # matplotlib's own layout and outlines of letters change between versions
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
NAMED = re.compile(r'(?:id="|#)[^")]*|data:image/png;base64,[^"]*')


@pytest.fixture(scope="module")
def tables():
    return Tables(RESULTS)


def test_bytes_repeat(tables):
    first, second = (render(FIGURES["budget"].draw(tables), "budget", "svg") for _ in range(2))
    assert first == second


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_the_committed_one(name, tables):
    svg = render(FIGURES[name].draw(tables), name, "svg").decode()
    if not matplotlib.__version__.startswith(DRAWN_WITH):
        pytest.skip(f"the committed figures were drawn with matplotlib {DRAWN_WITH}")
    found, committed = (NAMED.sub("", text) for text in (svg, (FOLDER / f"{name}.svg").read_text()))
    assert NUMBER.sub("#", found) == NUMBER.sub("#", committed)
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (found, committed)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-3, abs=0.5)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_there_twice_small_and_explained(name):
    for form in ("png", "svg"):
        assert 0 < (FOLDER / f"{name}.{form}").stat().st_size < 300_000
    assert f"`study/{name}`" in (ROOT / "figures" / "README.md").read_text()


def test_nothing_else_lies_among_the_figures():
    assert {path.stem for path in FOLDER.iterdir()} == set(FIGURES)


def test_a_run_that_diverged_is_not_drawn(tables):
    own = [row for row in tables.runs if row["task"] == tables.task]
    left_out = {configuration(row) for row in own} - {configuration(row) for row in tables.main}
    assert left_out == {(tables.task, "lora", 256, 512.0, 4e-3)}
    assert {row["id"] for row in tables.main}.isdisjoint(tables.summary["diverged"])


def test_the_second_task_is_the_same_tables_of_other_runs(tables):
    second = tables.second
    assert {row["task"] for row in second.main} == {second.task} != {tables.task}
    assert len(second.main) == sum(row["task"] == second.task for row in tables.runs)
    with pytest.raises(AbsentError, match="2 tasks"):
        _ = Tables(RESULTS, order=2).task


def test_results_without_a_table_say_so(tmp_path):
    for name in ("base.jsonl", "runs.jsonl", "summary.json"):
        (tmp_path / name).write_bytes((RESULTS / name).read_bytes())
    (tmp_path / "interventions.jsonl").write_text('{"id": "x", "status": "failed"}\n')
    with pytest.raises(AbsentError, match=r"no finished row in interventions\.jsonl"):
        FIGURES["intervention"].draw(Tables(tmp_path))
    with pytest.raises(AbsentError, match=r"together\.jsonl"):
        FIGURES["sequence"].draw(Tables(tmp_path))
