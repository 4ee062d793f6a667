"""`spectra overlap`: the sentence a person reads, data on stdout, and what is refused."""

import csv
import io
import json

import pytest


def test_the_summary_names_what_is_shared_and_what_chance_gives(run, models):
    code, out, err = run("overlap", models / "base", models / "lora", models / "full")
    assert (code, err) == (0, "")
    for words in ("lora and full, both from base", "The two updates share", "by chance", "cosine", "Most alike"):
        assert words in " ".join(out.split())


def test_json_and_csv_are_data(run, models):
    _, out, _ = run("overlap", models / "base", models / "lora", models / "full", "--k", "3", "--json", "-")
    found = json.loads(out)
    assert {row["k"] for row in found["layers"]} == {3}
    _, out, _ = run("overlap", models / "base", models / "lora", models / "full", "--k", "3", "--csv", "-")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [float(row["left.shared"]) for row in rows] == [layer["left"]["shared"] for layer in found["layers"]]


def test_figures_are_written(run, models, tmp_path):
    code, _, err = run("overlap", models / "base", models / "lora", models / "full", "--figures", tmp_path / "f")
    assert code == 0
    assert "wrote 6 files" in err


def test_an_untrained_side_leaves_nothing_to_compare(run, models):
    code, out, _ = run("overlap", models / "base", models / "lora", models / "untrained")
    assert code == 0
    assert "the update of the second model is zero: it equals the base" in " ".join(out.split())
    _, out, _ = run("overlap", models / "base", models / "base", models / "lora")
    assert "in 4 of 4 matrices the update of the first model is zero" in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "code"),
    [(("--k", "0"), 2), (("--device", "gpu"), 2), (("--include", "nowhere"), 3), (("--json", "/nowhere/x.json"), 4)],
)
def test_what_cannot_be_done_is_refused(run, models, words, code):
    ended, out, err = run("overlap", models / "base", models / "lora", models / "full", *words)
    assert (ended, out) == (code, "")
    assert err.startswith(("error:", "Error:"))


def test_a_path_that_is_not_there_is_refused(run, models):
    assert run("overlap", models / "base", models / "lora", models / "nowhere")[0] == 3
