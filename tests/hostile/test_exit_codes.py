"""What a person at a terminal gets for bad input: one line that says what to do, and exit code 3."""

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import spectra
from spectra.cli.main import main

TRACES = ("Traceback", 'File "', "site-packages", "\x1b")


class Evil:
    def __reduce__(self):
        return os.system, ("echo owned",)


def damaged(folder, craft, name="model.safetensors", cut=-1):
    path = craft.model(folder, craft.weights(seed=1)) / name
    path.write_bytes(path.read_bytes()[:cut])
    return folder


def hostile_pickle(folder, craft):
    folder.mkdir()
    torch.save({"w": torch.ones(2, 2), "x": Evil()}, folder / "pytorch_model.bin")
    return folder


def plain_pickle(folder, craft):
    folder.mkdir()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    return folder


def leading_out(folder, craft):
    folder.mkdir()
    index = {"weight_map": {"w": "../base/model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def pipe(folder, craft):
    folder.mkdir()
    os.mkfifo(folder / "model.safetensors")
    return folder


def colourful(folder, craft):
    return craft.adapter(folder, craft.factors(("evil\x1b[31m\u202e.q_proj",)))


TUNED = {
    "a path that does not exist": (lambda folder, craft: folder, "does not exist"),
    "an empty folder": (lambda folder, craft: folder.mkdir() or folder, "is empty"),
    "a truncated file": (damaged, "is truncated"),
    "a hostile torch file": (hostile_pickle, "posix.system"),
    "a hostile pickle": (plain_pickle, "posix.system"),
    "an index that leads out": (leading_out, "points outside its own folder"),
    "a pipe": (pipe, "not a regular file"),
    "names that steer a terminal": (colourful, "evil\\x1b[31m\\u202e.q_proj"),
    "another shape": (lambda folder, craft: craft.model(folder, craft.weights(seed=1, size=8)), "[16, 16]"),
    "an unread method": (lambda folder, craft: craft.adapter(folder, {}, peft_type="LOHA"), "LOHA"),
    "a bad value": (lambda folder, craft: craft.adapter(folder, {}, r="4"), "r is '4'"),
    "a packed model": (
        lambda folder, craft: craft.model(
            folder, {f"w.{part}": torch.zeros(1, 4, dtype=torch.int32) for part in ("qweight", "qzeros", "scales")}
        ),
        "GPTQ",
    ),
}


def in_its_own_process(*words):
    home = {"PYTHONPATH": str(Path(spectra.__file__).parents[1])}
    command = [sys.executable, "-m", "spectra", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **home})


def check(code, out, err, fragment):
    assert code == 3
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("error:") == 1
    assert fragment in err
    assert not any(trace in err for trace in TRACES)


@pytest.mark.parametrize(("make", "fragment"), TUNED.values(), ids=TUNED)
def test_bad_input_ends_in_one_error_and_exit_code_3(tmp_path, base, craft, capsys, make, fragment):
    with pytest.raises(SystemExit) as end:
        main(["diagnose", str(base), str(make(tmp_path / "tuned", craft))])
    check(end.value.code, *capsys.readouterr(), fragment)


@pytest.mark.parametrize("name", ["a hostile torch file", "names that steer a terminal"])
def test_so_it_does_in_a_process_of_its_own(tmp_path, base, craft, name):
    make, fragment = TUNED[name]
    done = in_its_own_process("diagnose", base, make(tmp_path / "tuned", craft))
    check(done.returncode, done.stdout, done.stderr, fragment)


def test_one_bad_matrix_ends_in_exit_code_1(tmp_path, base, craft):
    weights = craft.weights(seed=0)
    weights[craft.names[0]][0, 0] = float("nan")
    done = in_its_own_process("diagnose", base, craft.model(tmp_path / "t", weights), "--json", "-")
    assert done.returncode == 1
    assert [row["status"] for row in json.loads(done.stdout)["layers"]].count("nonfinite") == 1
    assert not any(trace in done.stderr for trace in TRACES)
