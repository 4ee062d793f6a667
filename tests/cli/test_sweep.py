"""`spectra sweep`: the table a person reads, data on stdout, and a pattern that the same command is content with."""

import csv
import io
import json

import pytest

from spectra.cli.sweep import parse_scales
from spectra.errors import UsageError
from spectra.reports.page.embedded import read

FEW = ("--scales", "0:1:5")


@pytest.mark.parametrize(
    ("text", "scales"),
    [("0:2:5", [0, 0.5, 1, 1.5, 2]), ("0:1:11", [step / 10 for step in range(11)]), ("0.5,2", [0.5, 2]), ("3", [3])],
)
def test_scales_are_read(text, scales):
    assert parse_scales(text) == scales


@pytest.mark.parametrize("text", ["", "0:2", "a:b:3", "0:2:1", "0:2:999999999", "0:1:2:3", "0;1", "0:2:2.5"])
def test_scales_that_are_none_are_refused(text):
    with pytest.raises(UsageError, match="FROM:TO:COUNT"):
        parse_scales(text)


def test_the_summary_names_what_crosses_first(run, models):
    code, out, err = run("sweep", models / "base", models / "lora", *FEW)
    assert (code, err) == (0, "")
    for words in (
        "4 of 4 matrices meet intruders at or below scale 1", "at scale 1", "by scale", "the law", "First to cross",
        "block 0 self_attn.q_proj", "--alpha-pattern FILE",
    ):  # fmt: skip
        assert words in " ".join(out.split())


def test_the_page_holds_what_the_sweep_found(run, models, tmp_path):
    page, data = tmp_path / "sweep.html", tmp_path / "sweep.json"
    code, _, err = run("sweep", models / "base", models / "lora", *FEW, "--html", page, "--json", data)
    assert code == 0
    assert "sweep.html" in err
    assert [row["critical"] for row in read(page)["layers"]] == pytest.approx(
        [row["critical"] for row in json.loads(data.read_text())["layers"]], rel=1e-6
    )


def test_a_full_fine_tune_is_told_the_scale_that_has_none(run, models):
    code, out, _ = run("sweep", models / "base", models / "full", "--scales", "0:60:7", "--k", "5")
    assert code == 0
    assert "no matrix has met an intruder yet" in " ".join(out.split())


def test_json_and_csv_are_data(run, models):
    _, out, _ = run("sweep", models / "base", models / "lora", *FEW, "--json", "-")
    found = json.loads(out)
    assert found["scales"] == [0, 0.25, 0.5, 0.75, 1]
    assert found["total"]["count"][0] == 0
    _, out, _ = run("sweep", models / "base", models / "lora", *FEW, "--csv", "-")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [float(row["critical"]) for row in rows] == [layer["critical"] for layer in found["layers"]]


def test_the_pattern_leaves_nothing_to_lower(run, models, tmp_path):
    pattern = tmp_path / "alphas.json"
    code, _, err = run(
        "sweep", models / "base", models / "lora", *FEW, "--alpha-pattern", pattern, "--figures", tmp_path / "f"
    )
    assert code == 0
    assert err.count("wrote") == 2
    assert {path.stem for path in (tmp_path / "f").iterdir()} == {"phase-curve", "critical-scales", "law"}
    document = json.loads((models / "lora" / "adapter_config.json").read_text()) | json.loads(pattern.read_text())
    (tmp_path / "lowered").mkdir()
    (tmp_path / "lowered" / "adapter_config.json").write_text(json.dumps(document))
    weights = (models / "lora" / "adapter_model.safetensors").read_bytes()
    (tmp_path / "lowered" / "adapter_model.safetensors").write_bytes(weights)
    _, out, _ = run("diagnose", models / "base", tmp_path / "lowered", "--json", "-")
    summary = json.loads(out)["summary"]
    assert summary["new"] == summary["rotated"] == 0


def test_the_pattern_to_stdout_is_only_the_pattern(run, models):
    code, out, _ = run("sweep", models / "base", models / "lora", *FEW, "--alpha-pattern", "-", "--margin", "0.5")
    assert code == 0
    found = json.loads(out)["alpha_pattern"]
    assert len(found) == 4
    assert all(0 < alpha < 4 for alpha in found.values())


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("--scales", "0:2"), 2, "--scales takes FROM:TO:COUNT"),
        (("--scales=-1,1"), 2, "scales are finite numbers from 0"),
        (("--scales", "0,nan"), 2, "scales are finite numbers from 0"),
        (("--scales", "0:1:5000"), 2, "1,000 are the most"),
        (("--method", "certified"), 2, "auto, basis or exact"),
        (("--alpha-pattern", "-", "--json", "-"), 2, "only one of"),
        (("--alpha-pattern", "a.json", "--csv", "./a.json"), 2, "names the same file"),
        (("--alpha-pattern", "no/such/folder/a.json"), 4, "does not exist"),
        (("--alpha-pattern", "-", "--margin", "1"), 2, "margin is 1.0"),
        (("--alpha-pattern", "a.html", "--html", "./a.html"), 2, "names the same file"),
    ],
)
def test_a_mistake_gets_one_sentence_and_its_code(run, models, words, code, message):
    words = (words,) if isinstance(words, str) else words
    found, out, err = run("sweep", models / "base", models / "lora", *words)
    assert (found, out) == (code, "")
    assert message in " ".join(err.split())


def test_a_full_fine_tune_has_no_pattern(run, models, monkeypatch):
    monkeypatch.setattr("spectra.api.sweep", lambda *_, **__: pytest.fail("it was swept before it was refused"))
    code, out, err = run("sweep", models / "base", models / "full", *FEW, "--alpha-pattern", "-")
    assert (code, out) == (2, "")
    assert "there is no alpha to write" in err


def test_nothing_changed_is_said(run, models):
    code, out, _ = run("sweep", models / "base", models / "untrained", *FEW)
    assert code == 0
    assert "Nothing could be swept" in out
