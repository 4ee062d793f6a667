"""Indices that lead elsewhere, and folders with too few, too many or the wrong files."""

import json
import os
import shutil
import sys

import pytest
import torch
from safetensors.torch import save_file

from spectra.errors import FormatError, InputError, UnsafeFileError
from spectra.loaders.formats import read_weights
from spectra.loaders.source import open_source

INDEX = "model.safetensors.index.json"
OPENED: list[str] = []
SHARDS = tuple(f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3))


def _remember(event, arguments):
    if event == "open" and OPENED:
        OPENED.append(os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else "")


sys.addaudithook(_remember)


@pytest.fixture
def opened():
    """Every path opened during the test, from an audit hook of the interpreter."""
    OPENED[:] = ["recording"]
    yield OPENED
    OPENED.clear()


def write_index(folder, weight_map, name=INDEX):
    folder.mkdir(parents=True, exist_ok=True)
    text = weight_map if isinstance(weight_map, str) else json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / name).write_text(text)
    return folder


@pytest.fixture
def sharded(tmp_path):
    """A checkpoint of three shards, two tensors each."""
    tensors = {f"w{number}": torch.full((2, 2), float(number)) for number in range(6)}
    homes = {key: SHARDS[number // 2] for number, key in enumerate(tensors)}
    folder = write_index(tmp_path / "sharded", homes)
    for shard in SHARDS:
        save_file({key: tensors[key] for key in tensors if homes[key] == shard}, folder / shard)
    return folder


ESCAPES = {
    "the parent": "../outside.safetensors",
    "two parents": "../../outside.safetensors",
    "a way in and out": "sub/../../outside.safetensors",
    "an absolute path": "{outside}",
    "a subfolder": "sub/outside.safetensors",
    "a Windows subfolder": "sub\\outside.safetensors",
    "a Windows parent": "..\\outside.safetensors",
    "a drive": "C:\\outside.safetensors",
    "relative to a drive": "C:outside.safetensors",
    "a network share": "\\\\host\\share\\outside.safetensors",
    "a URL": "https://host/outside.safetensors",
    "a stream": "outside.safetensors:x.safetensors",
    "this folder": ".",
    "the parent folder": "..",
    "nothing": "",
    "a NUL": "outside.safetensors\x00.safetensors",
}


@pytest.mark.parametrize("name", ESCAPES.values(), ids=ESCAPES)
def test_an_index_cannot_lead_out_of_its_folder(tmp_path, opened, refused, name):
    outside = tmp_path / "outside.safetensors"
    save_file({"w": torch.ones(2, 2)}, outside)
    folder = write_index(tmp_path / "model", {"w": name.format(outside=outside)})
    (folder / "sub").mkdir()
    shutil.copy(outside, folder / "sub" / outside.name)
    opened[:] = ["recording"]
    refused(lambda: read_weights(folder), INDEX, "points outside its own folder", kind=UnsafeFileError)
    assert any(path.endswith(INDEX) for path in opened), "the hook sees what is opened"
    assert not any("outside" in path for path in opened)


WRONG_NAMES = {
    "another extension": ("weights.bin", "does not end in .safetensors", UnsafeFileError),
    "a hidden extension": ("w.safetensors.py", "does not end in .safetensors", UnsafeFileError),
    "a number": (7, "7 as a file name", FormatError),
    "null": (None, "None as a file name", FormatError),
    "a list": (["w.safetensors"], "as a file name", FormatError),
    "a name of 300 letters": ("x" * 300 + ".safetensors", "1 shard of 1 missing", FormatError),
    "escape characters": ("\x1b[2J\u202e.safetensors", "\\x1b[2J\\u202e", FormatError),
}


@pytest.mark.parametrize(("name", "fragment", "kind"), WRONG_NAMES.values(), ids=WRONG_NAMES)
def test_a_shard_must_be_named_as_one(tmp_path, refused, name, fragment, kind):
    refused(lambda: read_weights(write_index(tmp_path / "model", {"w": name})), INDEX, fragment, kind=kind)


BROKEN = {
    "no JSON": ("{", "not valid JSON"),
    "a list": ("[]", "not an object"),
    "no weight_map": ('{"metadata": {}}', "no weight_map"),
    "an empty weight_map": ('{"weight_map": {}}', "no weight_map"),
    "a weight_map that is a list": ('{"weight_map": ["w"]}', "no weight_map"),
    "one tensor in two shards": ('{"weight_map": {"w": "a.safetensors", "w": "b.safetensors"}}', "'w' stands twice"),
    "two weight maps": ('{"weight_map": {"w": "a.safetensors"}, "weight_map": {}}', "'weight_map' stands twice"),
    "an empty file": ("", "not valid JSON"),
}


@pytest.mark.parametrize(("text", "fragment"), BROKEN.values(), ids=BROKEN)
def test_a_broken_index_is_refused(tmp_path, refused, text, fragment):
    refused(lambda: read_weights(write_index(tmp_path / "model", text)), INDEX, fragment, kind=FormatError)


def test_every_missing_shard_and_misplaced_tensor_is_listed_at_once(sharded, refused):
    (sharded / SHARDS[0]).unlink()
    save_file({"w2": torch.ones(2, 2)}, sharded / SHARDS[1])
    (sharded / SHARDS[2]).write_bytes((sharded / SHARDS[2]).read_bytes()[:-1])
    message = refused(lambda: read_weights(sharded), INDEX, kind=FormatError)
    assert f"1 shard of 3 missing ({SHARDS[0]})" in message
    assert f"1 tensor not in the shard it names (w3 ({SHARDS[1]}))" in message
    assert f"1 shard unreadable ({SHARDS[2]} is truncated" in message


def test_one_truncated_shard_says_how_many_bytes_are_missing(sharded, refused):
    (sharded / SHARDS[2]).write_bytes((sharded / SHARDS[2]).read_bytes()[:-1])
    refused(lambda: read_weights(sharded), SHARDS[2], "32 bytes of tensors are promised, 31 are there")


def test_what_an_index_does_not_list_is_left_out_and_said(sharded):
    save_file({"stray": torch.ones(2, 2), "w4": torch.ones(2, 2), "w5": torch.ones(2, 2)}, sharded / SHARDS[2])
    save_file({"w9": torch.ones(2, 2)}, sharded / "model-00004-of-00003.safetensors")
    header = read_weights(sharded)
    assert list(header.tensors) == [f"w{number}" for number in range(6)]
    assert f"{INDEX} does not list stray: not read" in header.notes
    assert f"{INDEX} names no tensor of model-00004-of-00003.safetensors: not read" in header.notes


def test_shards_of_two_formats_are_refused(sharded, refused):
    torch.save({"w4": torch.ones(2, 2), "w5": torch.ones(2, 2)}, sharded / SHARDS[2])
    refused(lambda: read_weights(sharded), "different formats (safetensors, torch pickle)", kind=FormatError)


def test_shards_without_their_index_are_refused(sharded, refused):
    (sharded / INDEX).unlink()
    refused(lambda: read_weights(sharded), "shards without their index", kind=InputError)


COPIES = {
    "one file before shards": ("model.safetensors", INDEX),
    "safetensors before a pickle": (INDEX, "pytorch_model.bin"),
    "one pickle before shards": ("pytorch_model.bin", "pytorch_model.bin.index.json"),
    "the whole pipeline's name last": ("model.safetensors", "diffusion_pytorch_model.safetensors"),
}


@pytest.mark.parametrize("names", COPIES.values(), ids=COPIES)
def test_of_two_copies_the_documented_one_is_read_and_both_are_named(tmp_path, names):
    for value, name in enumerate(names):
        tensors = {"w": torch.full((2, 2), float(value))}
        if name.endswith(".index.json"):
            shard = "shard" + (".bin" if ".bin" in name else ".safetensors")
            write_index(tmp_path, {"w": shard}, name)
            name = shard
        if name.endswith(".bin"):
            torch.save(tensors, tmp_path / name)
        else:
            save_file(tensors, tmp_path / name)
    source = open_source(tmp_path)
    assert torch.equal(source.tensor("w"), torch.zeros(2, 2))
    assert any(f"{names[0]} is read, the others are not" in note and names[1] in note for note in source.header.notes)


def test_which_copy_was_read_reaches_the_report(base, craft, tmp_path, diagnose):
    shutil.copytree(base, tmp_path / "tuned")
    torch.save(craft.weights(seed=5), tmp_path / "tuned" / "pytorch_model.bin")
    notes = diagnose(base, tmp_path / "tuned").provenance["notes"]
    assert any("model.safetensors is read, the others are not" in note for note in notes)


SPECIAL = {
    "a pipe": lambda path: os.mkfifo(path),
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "a terminal": lambda path: path.symlink_to("/dev/tty"),
    "a socket's place": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("name", [SHARDS[1], "config.json", "adapter_config.json", INDEX])
@pytest.mark.parametrize("make", SPECIAL.values(), ids=SPECIAL)
def test_a_pipe_or_a_device_is_never_opened(sharded, refused, pairs, name, make):
    (sharded / name).unlink(missing_ok=True)
    make(sharded / name)
    refused(lambda: pairs(sharded, sharded), f"'{name}' is not a regular file", kind=UnsafeFileError)


def test_a_pipe_or_device_given_itself_is_refused_unopened(tmp_path, opened, refused, base, pairs):
    os.mkfifo(tmp_path / "pipe")
    for given in (tmp_path / "pipe", "/dev/zero", "/dev/null"):
        refused(lambda given=given: pairs(base, given), "not a regular file", kind=UnsafeFileError)
        refused(lambda given=given: pairs(given, base), "not a regular file", kind=UnsafeFileError)
    assert any(path.endswith("model.safetensors") for path in opened), "the hook sees what is opened"
    assert not [path for path in opened if path.endswith(("/pipe", "/dev/zero", "/dev/null"))]


def test_a_pipe_put_in_place_of_a_file_meanwhile_is_not_waited_for(tmp_path, monkeypatch, refused):
    os.mkfifo(tmp_path / "w.safetensors")
    monkeypatch.setattr("spectra.loaders.files.require_regular", lambda path: 100)
    refused(lambda: read_weights(tmp_path / "w.safetensors"), "not a regular file", kind=UnsafeFileError)


NO_WEIGHTS = {
    "an empty folder": ({}, "is empty"),
    "a folder of texts": ({"README.md": "hi", "b.txt": ""}, "holds no weights (README.md, b.txt)"),
    "several weights": ({"a.safetensors": "", "b.safetensors": ""}, "several weights files (a.safetensors, b.safetensors)"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "fragment"), NO_WEIGHTS.values(), ids=NO_WEIGHTS)
def test_a_folder_without_one_clear_choice_of_weights_says_what_it_holds(tmp_path, refused, files, fragment):
    folder = tmp_path / "model"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    refused(lambda: read_weights(folder), "folder 'model'", fragment, kind=InputError)


def test_a_path_that_does_not_exist_names_the_nearest(tmp_path, refused, base):
    refused(lambda: read_weights(tmp_path / "bsae"), "does not exist", f"Did you mean '{base}'?")
    assert "Did you mean" not in refused(lambda: read_weights(tmp_path / "x.safetensors"), "does not exist")
