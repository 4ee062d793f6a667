"""`spectra base`: says beforehand what it takes, fills the cache, and fails as every command does."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from spectra.basis_cache import BasisCache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SPECTRA_CACHE", str(tmp_path / "cache"))
    return BasisCache(tmp_path / "cache" / "bases")


@pytest.fixture
def changed(models, tmp_path):
    """Write the base once more, with some of its tensors replaced."""

    def _changed(**replaced):
        folder = tmp_path / "changed"
        folder.mkdir()
        tensors = load_file(models / "base" / "model.safetensors")
        for place, tensor in replaced.items():
            tensors[next(key for key in tensors if place in key)] = tensor
        save_file(tensors, folder / "model.safetensors")
        return folder

    return _changed


def test_a_base_is_decomposed_once(run, models, cache):
    code, out, err = run("base", models / "base")
    assert code == 0
    assert err.startswith("at most 4 matrices of base on cpu: about 1 s, ")
    assert f"in {cache.folder}" in err
    assert "of memory" in err
    assert "base: 4 matrices decomposed in 1 s, 0 kept already, 0 failed, 1 tensor left out" in out
    assert len(cache.entries()) == 4
    written = [path.stat().st_mtime_ns for path in cache.entries()]
    code, out, _ = run("base", models / "base")
    assert code == 0
    assert "0 matrices decomposed in 1 s, 4 kept already, 0 failed" in out
    assert [path.stat().st_mtime_ns for path in cache.entries()] == written


def test_what_is_kept_serves_diagnose_wherever_the_base_lies(run, models, cache, tmp_path):
    run("base", models / "base")
    shutil.copytree(models / "base", tmp_path / "elsewhere")
    counts = {}
    for method in ("exact", "basis"):
        _, out, _ = run("diagnose", tmp_path / "elsewhere", models / "lora", "--method", method, "--json", "-")
        layers = json.loads(out)["layers"]
        counts[method] = [layer["intruders"]["count"] for layer in layers]
        assert [layer["method"] for layer in layers] == [method] * 4
        assert any("from the cache of bases" in note for note in layers[0]["notes"]) == (method == "basis")
    assert counts["basis"] == counts["exact"]
    assert sum(counts["exact"]) > 0


def test_a_dry_run_is_data_and_writes_nothing(run, models, cache):
    code, out, err = run("base", models / "base", "--dry-run", "--include", "q_proj", "--device", "cpu")
    found = json.loads(out)
    assert (code, err) == (0, "")
    assert not cache.folder.exists()
    assert (found["base"], found["device"], found["folder"]) == ("base", "cpu", str(cache.folder))
    assert found["matrices"] == 2
    assert found["bytes"] == pytest.approx(2 * 4 * 2 * 96 * 96, rel=0.02)
    assert found["memory"] == 8 * 4 * 96 * 96
    assert 0 <= found["seconds"] < 1
    assert {skipped["reason"] for skipped in found["skipped"]} == {
        "left out by include / exclude", "a vector or scalar: it has no singular vectors",
    }  # fmt: skip


def test_the_bytes_said_beforehand_are_the_bytes_written(run, models, cache):
    said = json.loads(run("base", models / "base", "--dry-run")[1])["bytes"]
    run("base", models / "base")
    assert cache.bytes() == pytest.approx(said, rel=0.01)


def test_where_prints_the_folder(run, models, cache):
    assert run("base", "--where") == (0, f"{cache.folder}\n", "0 entries, 0 B\n")
    run("base", models / "base", "--exclude", "v_proj")
    code, out, err = run("base", "--where")
    assert (code, out) == (0, f"{cache.folder}\n")
    assert err.startswith("2 entries, ")


def test_a_matrix_that_cannot_be_decomposed_fails_alone(run, changed, cache):
    folder = changed(
        **{"0.self_attn.q_proj": torch.full((96, 96), float("nan")), "1.self_attn.v_proj": torch.zeros(96, 96)}
    )
    code, out, _ = run("base", folder)
    assert code == 1
    assert "2 matrices decomposed in 1 s, 0 kept already, 1 failed, 2 tensors left out" in out
    assert "failed: model.layers.0.self_attn.q_proj.weight: the matrix holds 9216 values that are NaN" in out
    assert len(cache.entries()) == 2


def test_small_matrices_are_not_worth_a_file(run, changed, cache):
    code, out, _ = run("base", changed(**{"0.self_attn.q_proj": torch.ones(63, 200)}), "--dry-run")
    assert code == 0
    assert {"key": "model.layers.0.self_attn.q_proj.weight", "reason": "63 x 200: decomposed faster than read"} in (
        json.loads(out)["skipped"]
    )


def test_a_broken_entry_is_said_and_made_again(run, models, cache):
    run("base", models / "base")
    entry = cache.entries()[0]
    whole = entry.read_bytes()
    entry.write_bytes(whole[:100] + b"?" + whole[101:])
    code, out, _ = run("base", models / "base")
    assert code == 0
    assert "1 matrix decomposed in 1 s, 3 kept already" in out
    assert f"'{entry}' is broken: its checksum does not fit; it was removed." in out
    assert len(cache.entries()) == 4


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("base",), 2, "Missing argument 'BASE'"),
        (("base", "{base}x"), 3, "does not exist"),
        (("base", "{base}", "--include", "q_prj"), 3, "no weight matches q_prj. The nearest name is"),
        (("base", "{base}", "--include", "q_proj", "--exclude", "q_proj"), 3, "no weight matches q_proj, not q_proj"),
        (("base", "{base}", "--device", "cuba"), 2, "device 'cuba' is unknown"),
        (("base", "{lora}"), 3, "adapter"),
    ],
)
def test_a_mistake_gets_one_sentence_and_its_code(run, models, cache, words, code, message):
    found, out, err = run(*(word.format(base=models / "base", lora=models / "lora") for word in words))
    assert (found, out) == (code, "")
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert not cache.folder.exists()


def test_a_folder_in_the_way_is_exit_four(run, models, cache):
    cache.folder.parent.mkdir()
    cache.folder.write_text("in the way")
    code, out, err = run("base", models / "base")
    assert (code, out) == (4, "")
    assert "SPECTRA_CACHE" in err


def test_a_disk_too_small_is_refused_before_work(run, models, cache, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    code, out, err = run("base", models / "base")
    assert (code, out) == (4, "")
    assert "has 1000 B free and at least" in err
    assert not cache.folder.exists()
