"""The benchmark runs from end to end, its verdicts agree, and its JSON holds what the figure and a reader need.

Nothing here looks at a time: speed is what the scripts print.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "benchmarks"
# PEFT's count is compared in tests/metrics/test_peft.py: importing it takes longer than all the rest here.
LINES = "paper,exact,auto,certified,verdicts,batch,basis,cached,curve,adapters"


def run(script, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, FOLDER / script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    ended = run(
        "engine.py", "--quick", "--repeats", 1, "--pause", 0, "--adapters", 3, "--lines", LINES,
        "--json", folder / "engine.json", "--figure", folder / "engine",
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended, folder


def test_every_line_of_every_case_agrees(quick):
    ended, folder = quick
    found = json.loads((folder / "engine.json").read_text())
    assert found["agreement"]["judged"] >= 15
    assert found["agreement"]["against"] == found["agreement"]["failed"] == []
    assert " lines judged, 0 against the reference" in ended.stdout
    for case in found["cases"]:
        assert 3 <= case["intruders"] <= 5
        assert case["reference"]["precision"] == "float64"
        verdicts = [value < found["epsilon"] for value in case["reference"]["similarity"]]
        for row in case["lines"]:
            said = row.get("intruder", [None] * 10)
            assert all(one in (None, verdict) for one, verdict in zip(said, verdicts, strict=True)), row["label"]
            assert None not in said or row["line"] in ("verdicts", "batch") or "skipped" in row, row["label"]


def test_json_says_where_and_with_what(quick):
    _, folder = quick
    found = json.loads((folder / "engine.json").read_text())
    assert found["schema"] == 1
    assert found["machine"].keys() == {"date", "cpu", "cores", "threads", "device", "blas", "python", "versions"}
    assert found["machine"]["threads"] == 1
    assert {"torch", "numpy", "scipy"} <= found["machine"]["versions"].keys()
    for case in found["cases"]:
        assert [row["line"] for row in case["lines"]] == LINES.split(",")
        for row in case["lines"]:
            if "skipped" not in row:
                assert row["median"] >= row["least"] > 0
                assert row["memory"] is None or row["memory"] == row["memory_bytes"] / (4 * 512 * 512)
                assert row["passes"] is None or row["passes"] > 0
                assert row["counted"] or row["passes"] is None
    rows = {row["line"]: row for row in found["cases"][0]["lines"]}
    assert rows["paper"]["ratio"] == 1
    assert rows["certified"]["passes"] < rows["paper"]["passes"] / 10
    assert rows["curve"]["single_answers"] > 0


def test_the_figure_is_drawn(quick):
    _, folder = quick
    assert (folder / "engine.png").read_bytes().startswith(b"\x89PNG")
    again = run("figure.py", folder / "engine.json", "--out", folder / "again")
    assert again.returncode == 0, again.stderr
    assert "<svg" in (folder / "again.svg").read_text()


def test_unknown_lines_and_devices_are_refused():
    ended = run("engine.py", "--quick", "--lines", "basis,exakt")
    assert ended.returncode == 2
    assert "there is no exakt" in ended.stderr
    assert run("engine.py", "--shapes", "512").returncode == 2


def test_the_cost_model_prints_a_row_for_its_file(tmp_path):
    ended = run("cost_model.py", "--largest", 128, "--repeats", 2, "--json", tmp_path / "samples.json")
    assert ended.returncode == 0, ended.stderr
    assert '"cpu": Machine(svd_core=' in ended.stdout
    again = run("cost_model.py", "--again", tmp_path / "samples.json")
    assert again.stdout.splitlines()[-5:] == ended.stdout.splitlines()[-5:]


def test_the_threshold_law_is_compared_with_the_exact_scale(tmp_path):
    ended = run("threshold_law.py", "--cases", 5, "--json", tmp_path / "law.json")
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "law.json").read_text())
    whole, *kinds = found["lines"][:6]
    assert whole["compared"] == sum(kind["compared"] for kind in kinds) == 5
    assert 0.4 < whole["ratio_10"] <= whole["ratio"] <= whole["ratio_90"] < 2.5
    assert "random, isotropic" in ended.stdout
