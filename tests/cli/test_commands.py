"""What a user of the command line is promised: data on stdout, one sentence on failure, exit codes."""

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from spectra.cli.main import COMMANDS


def test_diagnose_prints_the_summary_and_exits_with_zero(run, models):
    code, out, err = run("diagnose", models / "base", models / "lora")
    assert code == 0
    assert err == ""
    for words in (
        "LoRA, r = 4, alpha = 8 (scale 2) on q_proj, v_proj",
        "intruders",
        "rank of dW",
        "size of dW",
        "SP204",
    ):
        assert words in out


def test_json_to_stdout_is_only_json(run, models):
    code, out, _ = run("diagnose", models / "base", models / "lora", "--json", "-")
    document = json.loads(out)
    assert code == 0
    assert document["schema"] == 1
    assert [layer["key"] for layer in document["layers"]] == sorted(layer["key"] for layer in document["layers"])
    assert document["summary"]["intruders"] == sum(layer["intruders"]["count"] for layer in document["layers"]) > 0


def test_csv_to_stdout_has_one_line_a_matrix(run, models):
    _, out, _ = run("diagnose", models / "base", models / "full", "--csv", "-")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert len(rows) == 4
    assert float(rows[0]["norm.ratio"]) == pytest.approx(0.02, rel=0.05)


def test_files_are_written_whole_and_named_on_stderr(run, models, tmp_path):
    code, _, err = run(
        "diagnose", models / "base", models / "lora", "--html", tmp_path / "r.html", "--json", tmp_path / "r.json",
        "--figures", tmp_path / "figures",
    )  # fmt: skip
    assert code == 0
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")
    assert json.loads((tmp_path / "r.json").read_text())["schema"] == 1
    assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {".png", ".svg", ".pdf"}
    assert err.count("wrote") == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures", "r.html", "r.json"]


def test_an_old_report_survives_a_failed_run(run, models, tmp_path):
    old = tmp_path / "r.json"
    old.write_text("old")
    assert run("diagnose", models / "base", tmp_path / "nowhere", "--json", old)[0] == 3
    assert old.read_text() == "old"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("diagnose", "{base}", "{lora}", "--k", "0"), 2, "k is 0"),
        (("diagnose", "{base}", "{lora}", "--epsilon", "1.5"), 2, "epsilon is 1.5"),
        (("diagnose", "{base}", "{lora}", "--method", "exakt"), 2, "did you mean 'exact'?"),
        (("diagnose", "{base}", "{lora}", "--device", "cuba"), 2, "device 'cuba' is unknown"),
        (("diagnose", "{base}", "{lora}", "--include", "q_prj"), 3, "no weight matches q_prj"),
        (("diagnose", "{base}", "{lora}", "--json", "-", "--csv", "-"), 2, "--json and --csv are both '-' (stdout)"),
        (
            ("diagnose", "{base}", "{lora}", "--sarif", "-", "--html", "-"),
            2,
            "--html and --sarif are both '-' (stdout)",
        ),
        (("diagnose", "{base}", "{lora}", "--github", "--csv", "-"), 2, "--github writes to stdout, and '-' does too"),
        (("diagnose", "{base}", "{lora}", "--select", "SP2,rank-unusd"), 2, "did you mean 'rank-unused'?"),
        (("compare", "{base}", "--lora", "{lora}", "--ignore", "SPX"), 2, "`spectra explain` lists them"),
        (("diagnose", "{base}", "{lora}", "--select", "SP201", "--ignore", "SP2"), 2, "no finding is left to look for"),
        (("compare", "{base}", "--guide", "--github"), 2, "--guide alone only prints"),
        (("diagnose", "{base}", "{lora}", "--json", "no/such/folder/r.json"), 4, "does not exist"),
        (("diagnose", "{base}", "{base}x"), 3, "does not exist"),
        (("diagnos", "{base}", "{lora}"), 2, "Did you mean 'diagnose'?"),
        (("diagnose", "{base}"), 2, "Missing argument 'TUNED'"),
        (("diagnose", "{base}", "{lora}", "--sied", "left"), 2, "--side"),
        (("compare", "{base}"), 2, "nothing to compare"),
        (("compare", "{base}", "--guide", "--json", "g.json"), 2, "--guide alone only prints"),
        (("diagnose", "{base}", "{lora}", "--json", "x", "--csv", "x"), 2, "name the same file"),
        (("diagnose", "{base}", "{lora}", "--html", "{base}"), 4, "is a folder"),
        (("diagnose", "{base}", "{lora}", "--json", ""), 4, "is a folder"),
        (("diagnose", "{base}", "{lora}", "--figures", "{base}/model.safetensors"), 4, "is a file"),
        (("compare", "{base}", "--full", "x={lora}"), 2, "'x' holds LoRA: give it as --lora"),
        (("compare", "{base}", "--lora", "x={full}"), 2, "give it as --full"),
        (("compare", "{base}", "--lora", "x={lora}", "--full", "x={full}"), 2, "given to a --lora and a --full"),
        (("compare", "{base}", "--lora", "={lora}"), 2, "takes NAME=PATH"),
        (("compare", "{base}", "--lora", "x={lora}", "--matrix", "q_prj"), 2, "Did you mean"),
    ],
)
def test_a_mistake_gets_one_sentence_and_its_code(run, models, words, code, message):
    filled = [word.format(**{name: models / name for name in ("base", "lora", "full")}) for word in words]
    found, out, err = run(*filled)
    assert found == code
    assert message in " ".join(err.split())
    assert out == ""
    assert "Traceback" not in err


def test_an_untrained_adapter_fails_only_when_asked_to(run, models):
    assert run("diagnose", models / "base", models / "untrained")[0] == 0
    code, out, _ = run("diagnose", models / "base", models / "untrained", "--fail-on", "error")
    assert code == 1
    assert "Nothing changed" in out
    assert run("diagnose", models / "base", models / "lora", "--fail-on", "error")[0] == 0


def codes(found):
    return {finding["code"] for finding in found["findings"]}


def test_only_what_was_selected_is_looked_for(run, models):
    words = ("diagnose", models / "base", models / "lora")
    everything = json.loads(run(*words, "--json", "-")[1])
    assert codes(everything) > {"SP204"}
    selected = json.loads(run(*words, "--json", "-", "--select", "SP204, rank-unused", "--select", "SP103")[1])
    assert selected["provenance"]["looked_for"] == ["SP103", "SP204", "SP301"]
    assert codes(selected) == codes(everything) & {"SP103", "SP204", "SP301"}
    ignored = json.loads(run(*words, "--json", "-", "--ignore", "intruders-everywhere")[1])
    assert codes(ignored) == codes(everything) - {"SP204"}
    assert ignored["layers"] == everything["layers"]
    assert "No finding among SP108." in run(*words, "--select", "SP108")[1]


def test_what_is_ignored_fails_no_pipeline(run, models):
    words = ("diagnose", models / "base", models / "untrained", "--fail-on", "error")
    assert run(*words)[0] == 1
    assert run(*words, "--ignore", "untrained")[0] == 0
    compared = ("compare", models / "base", "--lora", f"a={models / 'untrained'}", "--lora", f"b={models / 'lora'}")
    assert run(*compared, "--fail-on", "error")[0] == 1
    assert run(*compared, "--fail-on", "error", "--select", "SP2")[0] == 0


def test_annotations_take_the_place_of_the_summary(run, models, monkeypatch):
    monkeypatch.chdir(models)
    code, out, _ = run("diagnose", "base", "untrained", "--github")
    assert code == 0
    assert all(line.startswith("::") for line in out.splitlines())
    assert "::error title=SP101 untrained,file=untrained/adapter_model.safetensors::Every update is zero" in out
    _, out, _ = run("compare", "base", "--lora", "a=untrained", "--full", "full", "--github", "--guide")
    assert all(line.startswith("::") for line in out.splitlines())
    assert ",file=untrained/adapter_model.safetensors::a: Every update is zero" in out


@pytest.mark.parametrize("inside", [True, False])
def test_a_log_holds_no_path_of_this_machine(run, models, tmp_path, monkeypatch, inside):
    """Below the folder we are in a file is named from there, elsewhere by its last part."""
    monkeypatch.chdir(models.parent if inside else tmp_path)
    _, out, err = run("diagnose", models / "base", models / "untrained", "--sarif", "-")
    assert err == ""
    assert str(models) not in out
    (location,) = {
        location["physicalLocation"]["artifactLocation"]["uri"]
        for result in json.loads(out)["runs"][0]["results"]
        for location in result["locations"]
    }
    assert location == f"{models.name}/untrained/adapter_model.safetensors".removeprefix(
        "" if inside else f"{models.name}/"
    )
    run("compare", models / "base", "--lora", f"a={models / 'untrained'}", "--sarif", tmp_path / "c.sarif")
    assert str(models) not in (tmp_path / "c.sarif").read_text()


def test_debug_shows_the_traceback(run, tmp_path):
    _, _, err = run("--debug", "diagnose", tmp_path / "a", tmp_path / "b")
    assert "Traceback" in err
    assert "error: " in err


def test_compare_ranks_the_full_fine_tune_first(run, models, tmp_path):
    page = tmp_path / "compare.html"
    code, out, _ = run(
        "compare", models / "base", "--lora", f"r4={models / 'lora'}", "--full", models / "full", "--html", page, "--guide"
    )  # fmt: skip
    assert code == 0
    assert out.index("full fine-tuning") < out.index("r4")
    assert "Which way of fine-tuning?" in out
    assert "Shuttleworth et al." in out
    assert "r4 beside full: " in page.read_text()


def test_guide_alone_needs_no_model(run, models):
    code, out, _ = run("compare", models / "base", "--guide")
    assert code == 0
    for method in ("full fine-tuning", "LoRA", "QLoRA", "adapter tuning", "prefix / prompt tuning"):
        assert method in out


@pytest.mark.parametrize("given", ["--json", "--html"])
def test_a_reader_that_goes_away_is_no_fault(models, given):
    words = [sys.executable, "-m", "spectra", "diagnose", str(models / "base"), str(models / "lora"), given, "-"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        running.stdout.close()
        err = running.stderr.read()
        running.wait()
    assert (running.returncode, err) == (0, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_exit_four(models):
    words = [
        sys.executable,
        "-m",
        "spectra",
        "diagnose",
        str(models / "base"),
        str(models / "lora"),
        "--json",
        "/dev/full",
    ]
    ran = subprocess.run(words, capture_output=True, text=True)
    assert ran.returncode == 4
    assert "No space left on device" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_help_with_an_example(run, command):
    code, out, _ = run(command.name, "--help")
    assert code == 0
    assert "Example:" in out
    assert f"spectra {command.name}" in out
    assert [option.name for option in command.params if isinstance(option, click.Option) and not option.help] == []


def test_a_fleet_is_every_adapter_below_a_folder(run, models, tmp_path):
    for name in ("user-0", "user-1"):
        shutil.copytree(models / "lora", tmp_path / name)
    code, out, err = run("compare", models / "base", "--fleet", tmp_path, "--json", "-")
    assert code == 0, err
    assert list(json.loads(out)["models"]) == ["user-0", "user-1"]
    code, _, err = run("compare", models / "base", "--fleet", models / "base")
    assert code == 2
    assert "holds an adapter_config.json" in err
    code, _, err = run("compare", models / "base", "--fleet", tmp_path, "--lora", f"user-0={models / 'lora'}")
    assert code == 2
    assert "given twice" in err
