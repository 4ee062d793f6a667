"""`spectra inspect`: what a user sees, what a program reads, and the exit codes."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file


@pytest.fixture
def adapter(tmp_path):
    """A LoRA adapter of two blocks."""
    folder = tmp_path / "my-adapter"
    folder.mkdir()
    tensors = {}
    for block in range(2):
        name = f"base_model.model.model.layers.{block}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = np.zeros((4, 64), np.float32)
        tensors[f"{name}.lora_B.weight"] = np.zeros((64, 4), np.float32)
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": "org/model"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


SHOWN = """\
my-adapter

  container   safetensors, 4.0 KB
  tensors     4 (float32), 1.02 K parameters
  method      LoRA (PEFT)
  rank        4
  alpha       8; scaling 2 (alpha / r)
  targets     q_proj (2 modules)
  blocks      model.layers 0-1
  base named  org/model
  suspicious  nothing

  spectra diagnose reads this: yes, as an adapter folder, beside the base it was trained on
"""


def test_the_whole_text(run, adapter):
    assert run("inspect", adapter) == (0, SHOWN, "")


def test_tensors_are_listed_aligned(run, adapter):
    _, out, _ = run("inspect", adapter, "--tensors")
    assert out.startswith(SHOWN)
    rows = out.removeprefix(SHOWN).strip().splitlines()
    assert rows[0] == "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight  float32  4 x 64"
    assert len(rows) == 4
    assert len({row.index("float32") for row in rows}) == 1


def test_json_holds_all_that_the_text_says(run, adapter):
    code, out, err = run("inspect", adapter, "--json")
    found = json.loads(out)
    assert (code, err, found["schema"]) == (0, "", 1)
    for key, value in {
        "name": "my-adapter", "container": "safetensors", "files": 1, "tensors": 4, "parameters": 1024, "bytes": 4096,
        "dtypes": {"float32": 4}, "method": "LoRA (PEFT)", "ranks": [4], "alphas": [8.0], "scalings": [2.0],
        "targets": ["q_proj"], "blocks": {"model.layers": [0, 1]}, "base_named": "org/model", "facts": [],
        "suspicious": [], "readable": True, "hostile": False,
    }.items():  # fmt: skip
        assert found[key] == value, key
    assert "listed" not in found
    _, out, _ = run("inspect", adapter, "--json", "--tensors")
    assert [tensor["shape"] for tensor in json.loads(out)["listed"]][:2] == [[4, 64], [64, 4]]


class Hostile:
    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return os.system, (f"touch {self.sentinel}",)


def test_a_hostile_pickle_is_named_and_exits_with_three(run, tmp_path):
    torch.save({"evil": Hostile(tmp_path / "sentinel")}, tmp_path / "pytorch_model.bin")
    code, out, err = run("inspect", tmp_path / "pytorch_model.bin")
    assert (code, err) == (3, "")
    assert "system" in out
    assert "spectra diagnose reads this: no, because it is not safe to open" in out
    code, out, _ = run("inspect", tmp_path / "pytorch_model.bin", "--json")
    assert code == 3
    assert json.loads(out)["hostile"] is True
    assert not (tmp_path / "sentinel").exists()


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        ("none.bin", None, "does not exist"),
        ("cut.safetensors", b"\x09", "too short"),
        ("a.txt", b"hello", "68 65 6c 6c 6f"),
    ],
)
def test_what_cannot_be_described_is_one_line_and_three(run, tmp_path, name, raw, words):
    if raw is not None:
        (tmp_path / name).write_bytes(raw)
    code, out, err = run("inspect", tmp_path / name)
    assert (code, out) == (3, "")
    assert err.startswith("error: ")
    assert words in err
    assert err.count("\n") == 1


def test_nothing_of_a_stranger_reaches_the_terminal_raw(run, adapter):
    evil = "x\x1b]0;owned\x07\u202e\nfake line"
    tensors = {
        f"{evil}.weight": np.zeros((2, 2), np.float32),
        f"base.{evil}.3.lora_A.weight": np.zeros((2, 2), np.float32),
    }
    save_file(tensors, adapter / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA", "base_model_name_or_path": evil, "task_type": evil, "bias": evil, "init_lora_weights": evil,
        "modules_to_save": [evil], "rank_pattern": {evil: 3}, "target_modules": evil, "peft_version": evil, "layers_to_transform": [evil],
    }  # fmt: skip
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    code, out, err = run("inspect", adapter, "--tensors")
    assert code == 0
    assert r"\x1b]0;owned\x07\u202e\x0afake line" in out
    assert not [char for char in out + err if not (char.isprintable() or char == "\n")]
    renamed = adapter.rename(adapter.with_name("a\x1b[2J"))
    _, out, err = run("inspect", renamed)
    assert out.startswith(r"a\x1b[2J")
    assert "\x1b" not in out + err
    code, out, _ = run("inspect", renamed, "--json", "--tensors")
    assert code == 0
    assert "\x1b" not in out
    assert "\u202e" not in out


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_lines_fit_the_terminal(run, adapter, monkeypatch, columns):
    monkeypatch.setattr(shutil, "get_terminal_size", lambda _: os.terminal_size((columns, 24)))
    (adapter / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 8, "target_parameters": ["a"] * 30})
    )
    _, out, _ = run("inspect", adapter)
    assert max(map(len, out.splitlines())) <= max(60, min(columns, 120))


def test_the_help_has_an_example(run):
    code, out, _ = run("inspect", "--help")
    assert code == 0
    assert "spectra inspect my-adapter" in out
