"""What FAULTS lists and no other file here tries: other kinds of pickles, a third copy, large indices, relabelled types."""

import io
import json
import os
import pickle
import time
import zlib

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file

from spectra.errors import FormatError, InputError, UnsafeFileError
from spectra.loaders.formats import read_weights
from spectra.loaders.pairing import open_pairs
from spectra.loaders.source import open_source


class Evil:
    """Unpickled, it makes the file named in SENTINEL."""

    def __reduce__(self):
        return os.system, (f"touch {os.environ['SENTINEL']}",)


def npy():
    out = io.BytesIO()
    np.save(out, np.array([Evil()], dtype=object), allow_pickle=True)
    return out.getvalue()


KINDS = {
    "joblib": ("model.joblib", lambda: pickle.dumps({"w": Evil()}, 4)),
    "joblib, compressed": ("model.joblib", lambda: zlib.compress(pickle.dumps({"w": Evil()}, 4))),
    "a plain pickle": ("model.pkl", lambda: pickle.dumps(Evil(), 5)),
    "a checkpoint of Lightning": ("last.ckpt", lambda: torch_bytes({"state_dict": {"w": torch.eye(2)}, "callbacks": Evil()})),
    "a .npy of objects": ("w.npy", npy),
    "metadata of a distributed checkpoint": (".metadata", lambda: pickle.dumps({"state_dict_metadata": Evil()}, 4)),
}  # fmt: skip


def torch_bytes(content):
    out = io.BytesIO()
    torch.save(content, out)
    return out.getvalue()


@pytest.mark.parametrize("as_base", [True, False], ids=["base", "tuned"])
@pytest.mark.parametrize(("name", "make"), KINDS.values(), ids=KINDS)
def test_no_kind_of_pickle_is_run(tmp_path, monkeypatch, base, refused, name, make, as_base):
    monkeypatch.setenv("SENTINEL", str(tmp_path / "sentinel"))
    (tmp_path / "m").mkdir()
    path = tmp_path / "m" / name
    path.write_bytes(make())
    for given in (path, path.parent):
        models = (given, base) if as_base else (base, given)
        refused(lambda models=models: open_pairs(*models), kind=InputError)
    assert not (tmp_path / "sentinel").exists()


def test_a_consolidated_copy_beside_shards_is_not_the_one_read(tmp_path):
    save_file({"w": torch.zeros(2, 2)}, tmp_path / "model-00001-of-00001.safetensors")
    save_file({"w": torch.ones(2, 2)}, tmp_path / "consolidated.safetensors")
    index = {"weight_map": {"w": "model-00001-of-00001.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(open_source(tmp_path).tensor("w"), torch.zeros(2, 2))


def test_an_index_over_its_limit_is_not_parsed(tmp_path, refused):
    path = tmp_path / "model.safetensors.index.json"
    path.write_bytes(b"{")
    os.truncate(path, 65 * 2**20)
    refused(lambda: read_weights(path), "over 64.0 MB", kind=FormatError)


INDICES = {
    "nesting 100 000 deep": ('{{"weight_map": {}{}}}'.format("[" * 100_000, "]" * 100_000), "nested too deeply"),
    "a number of 5000 digits": ('{"weight_map": {"w": 1%s}}' % ("0" * 5000), "a number of 5001 digits"),
    "NaN": ('{"metadata": {"total_size": NaN}, "weight_map": {"w": "w.safetensors"}}', "NaN is not a number"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "fragment"), INDICES.values(), ids=INDICES)
def test_an_index_that_is_a_bomb_is_refused_at_once(tmp_path, refused, text, fragment):
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(text)
    refused(lambda: read_weights(path), path.name, fragment, kind=FormatError)


@pytest.mark.parametrize("length", [0, 7, 10**6, 2**63, 2**64 - 1])
def test_a_header_length_that_lies_is_refused_in_a_moment(tmp_path, craft, refused, length):
    path = tmp_path / "model.safetensors"
    path.write_bytes(craft.safetensors('{"w": {}}', b"\0" * 16, length))
    started = time.process_time()
    refused(lambda: read_weights(path), path.name, kind=FormatError)
    assert time.process_time() - started < 0.05


def test_a_type_that_is_relabelled_in_the_header_is_noted_beside_its_base(tmp_path, craft):
    """BF16 declared as F16 takes as many bytes: one file alone cannot show it, a base can."""
    names = craft.names[:3]
    base = craft.model(
        tmp_path / "b", {name: tensor.bfloat16() for name, tensor in craft.weights(seed=0, names=names).items()}
    )
    relabelled = (base / "model.safetensors").read_bytes().replace(b'"BF16"', b'"F16" ', 2)
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "model.safetensors").write_bytes(relabelled)
    with open_pairs(base, tmp_path / "t") as pairs:
        assert "2 tensors stored as bfloat16 in the base, as float16 in the tuned model" in pairs.notes
    with open_pairs(base, base) as pairs:
        assert not [note for note in pairs.notes if "stored as" in note]


def test_a_header_that_declares_other_types_of_one_length_is_read_as_it_says(tmp_path, craft):
    whole = save({"w": torch.ones(2, 4)})
    path = tmp_path / "model.safetensors"
    path.write_bytes(whole.replace(b'"F32","shape":[2,4]', b'"F64","shape":[2,2]'))
    found = open_source(path).tensor("w")
    assert (found.dtype, found.shape) == (torch.float64, (2, 2))


LINKS = {"a device": "/dev/zero", "a pipe": None}


@pytest.mark.parametrize("target", LINKS.values(), ids=LINKS)
def test_a_weights_file_that_is_a_link_to_no_file_is_not_opened(tmp_path, refused, target):
    if target is None:
        target = tmp_path / "pipe"
        os.mkfifo(target)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").symlink_to(target)
    refused(lambda: read_weights(tmp_path / "model"), "not a regular file", kind=UnsafeFileError)
