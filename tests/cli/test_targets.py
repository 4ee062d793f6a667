"""Where outputs may go: every target is looked at before any work, and no model is written over."""

import os
import shutil

import pytest

from spectra import table
from spectra.errors import MachineError


def test_two_options_that_mean_one_file_are_refused(run, models, tmp_path):
    (tmp_path / "real").write_text("")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "inner").mkdir()
    for one, other in (("real", "link"), ("inner/../new", "new")):
        code, out, err = run(
            "diagnose", models / "base", models / "lora", "--json", tmp_path / one, "--csv", tmp_path / other
        )
        assert (code, out) == (2, "")
        assert "name the same file" in err
    code, _, err = run(
        "sweep", models / "base", models / "lora", "--json", tmp_path / "real", "--alpha-pattern", tmp_path / "link"
    )
    assert (code, "names the same file" in err) == (2, True)


@pytest.mark.parametrize("option", ["--json", "--csv", "--html", "--markdown", "--sarif"])
def test_a_file_of_weights_is_never_written_over(run, models, tmp_path, option):
    shutil.copytree(models / "lora", tmp_path / "lora")
    weights = tmp_path / "lora" / "adapter_model.safetensors"
    before = weights.read_bytes()
    code, _, err = run("diagnose", models / "base", tmp_path / "lora", option, weights)
    assert (code, "is a file of weights and would be written over" in err) == (2, True)
    assert weights.read_bytes() == before
    assert run("diagnose", models / "base", tmp_path / "lora", option, tmp_path / "new.bin")[0] == 0


def test_a_folder_for_figures_is_looked_at_first(run, models, tmp_path):
    (tmp_path / "file").write_text("")
    for target, code, words in (
        ("-", 2, "figures do not go to stdout"),
        (tmp_path / "file", 4, "is a file: --figures takes a folder"),
        (tmp_path / "file" / "below", 4, "file' is a file: --figures takes a folder"),
    ):
        found = run("diagnose", models / "base", models / "lora", "--figures", target)
        assert (found[0], found[1], words in found[2]) == (code, "", True), found
    if os.geteuid():  # root may write anywhere
        (tmp_path / "closed").mkdir(mode=0o500)
        code, _, err = run("diagnose", models / "base", models / "lora", "--figures", tmp_path / "closed" / "new")
        assert (code, "permission denied" in err) == (4, True)
    target = tmp_path / "a" / "b"
    assert run("diagnose", models / "base", models / "lora", "--figures", target)[0] == 0
    assert len(list(target.iterdir())) > 3


def test_a_margin_without_a_file_to_write_it_into_is_refused(run, models):
    code, out, err = run("sweep", models / "base", models / "lora", "--margin", "0.1")
    assert (code, out) == (2, "")
    assert "--margin is for the file of --alpha-pattern" in err


def test_a_circle_of_links_is_no_target(run, models, tmp_path):
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "dangling").symlink_to("missing/file")
    for name, words in (
        ("circle", "is a link that leads back to itself"),
        ("dangling", "missing' for 'dangling' does"),
    ):
        code, out, err = run("diagnose", models / "base", models / "lora", "--json", tmp_path / name)
        assert (code, out, words in err) == (4, "", True), err
    with pytest.raises(MachineError, match=r"'.*circle' cannot be written: Too many levels of symbolic links"):
        table.write(tmp_path / "circle", "text")
    assert (tmp_path / "circle").is_symlink()
