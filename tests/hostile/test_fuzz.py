"""Random damage, the same on every run: only our own errors leave, at once, and they can be read."""

import io
import json
import random
import time
import zipfile

import pytest
import torch
from safetensors.torch import save

from spectra.errors import SpectraError
from spectra.loaders.source import open_source

TENSORS = {"a.weight": torch.arange(12.0).reshape(4, 3), "b": torch.ones(5).half(), "c": torch.arange(3)}
SPLICES = [bytes([code]) for code in range(256)]
SPLICES += [
    b"(t",
    b")R",
    b"cos\nsystem\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"h\x01",
    b"K\xff",
    b"\x8a\x08" + b"\xff" * 8,
]
SPLICES += [b"-1", b"1e9", b"null", b"[", b"{", b"}", b'"', b"\\ud800", b"99999999999999999999", b"../", b"\x1b["]


def damage(content, choose):
    """Return the bytes with one to eight random changes."""
    damaged = bytearray(content)
    for _ in range(choose.choice([1, 1, 2, 3, 8])):
        at, kind = choose.randrange(len(damaged) + 1), choose.randrange(5)
        if kind == 0:
            damaged[at : at + 1] = bytes([choose.randrange(256)])
        elif kind == 1:
            damaged[at:at] = choose.choice(SPLICES)
        elif kind == 2:
            del damaged[at : at + choose.choice([1, 2, 5, 20])]
        elif kind == 3:
            start = choose.randrange(len(damaged) + 1)
            damaged[at:at] = damaged[start : start + choose.choice([1, 5, 30])]
        elif at < len(damaged):
            damaged[at] ^= 1 << choose.randrange(8)
        damaged = damaged or bytearray(b"x")
    return bytes(damaged)


def torch_file(**options):
    out = io.BytesIO()
    torch.save({**TENSORS, "tied": TENSORS["b"]}, out, **options)
    return out.getvalue()


def damaged_header(choose):
    whole = save(TENSORS)
    end = 8 + int.from_bytes(whole[:8], "little")
    header = damage(whole[8:end], choose)
    return {"w.safetensors": len(header).to_bytes(8, "little") + header + whole[end:]}


def damaged_pickle(choose):
    """Damage the pickle and pack it anew, so that no checksum gives it away."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(torch_file())) as archive, zipfile.ZipFile(out, "w") as packed:
        for name in archive.namelist():
            content = archive.read(name)
            packed.writestr(name, damage(content, choose) if name.endswith("data.pkl") else content)
    return {"w.bin": out.getvalue()}


def damaged_index(choose):
    index = json.dumps(
        {"metadata": {"total_size": 64}, "weight_map": {"a.weight": "s.safetensors", "b": "s.safetensors"}}
    )
    return {"model.safetensors.index.json": damage(index.encode(), choose), "s.safetensors": save(TENSORS)}


KINDS = {
    "a safetensors header": damaged_header,
    "a whole safetensors file": lambda choose: {"w.safetensors": damage(save(TENSORS), choose)},
    "the pickle of a torch file": damaged_pickle,
    "a whole torch file": lambda choose: {"w.bin": damage(torch_file(), choose)},
    "a torch file before 1.6": lambda choose: {"w.bin": damage(torch_file(_use_new_zipfile_serialization=False), choose)},
    "an index": damaged_index,
}  # fmt: skip


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_whatever_is_damaged_only_our_own_errors_leave(tmp_path, make):
    choose, refusals = random.Random(0), 0
    for _ in range(300):
        for name, content in make(choose).items():
            (tmp_path / name).write_bytes(content)
        started, refusal = time.process_time(), None
        try:
            opened = open_source(tmp_path)
            shapes = {key: tuple(opened.tensor(key).shape) for key in opened.header.tensors}
        except SpectraError as fault:
            refusal = fault
        assert time.process_time() - started < 1
        if refusal is None:
            assert shapes == {key: info.shape for key, info in opened.header.tensors.items()}
        else:
            refusals += 1
            assert refusal.exit_code == 3
            assert str(refusal).isprintable()
            assert len(str(refusal)) < 700
    assert refusals > 100
