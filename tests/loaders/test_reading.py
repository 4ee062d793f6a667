"""Every tensor as it is stored, from one open file at a time, and a refusal where the file has changed meanwhile."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from spectra.errors import FormatError, UnsupportedError
from spectra.loaders import source
from spectra.loaders.flat import _OWN_PAGES
from spectra.loaders.source import open_source, part_of

ROOT = Path(__file__).parents[2]
DTYPES = (
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.int64, torch.int32, torch.int16, torch.int8, torch.uint64, torch.uint32, torch.uint16, torch.uint8, torch.bool,
)  # fmt: skip


def raw(tensor):
    return (
        tensor.contiguous().view(torch.uint8)
        if tensor.numel() and tensor.dim()
        else tensor.reshape(-1).view(torch.uint8)
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (5, 7), (2, 3, 4), (600, 600)], ids=str)
def test_every_dtype_and_shape_is_read_to_the_bit(tmp_path, dtype, shape):
    tensor = (torch.randn(shape) * 50).to(dtype) if dtype.is_floating_point else torch.randint(0, 2, shape).to(dtype)
    save_file({"before": torch.ones(3, dtype=torch.uint8), "w": tensor, "x": torch.ones(1)}, tmp_path / "m.safetensors")
    found = open_source(tmp_path / "m.safetensors").tensor("w")
    assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
    assert torch.equal(raw(found), raw(tensor))


def test_small_and_large_tensors_are_memory_of_their_own(tmp_path):
    small, large = torch.ones(4, 4), torch.ones(_OWN_PAGES // 4 + 1)
    save_file({"large": large, "small": small}, tmp_path / "m.safetensors")
    opened = open_source(tmp_path / "m.safetensors")
    for key, stored in (("large", large), ("small", small)):
        found = opened.tensor(key)
        found.mul_(3)
        assert torch.equal(opened.tensor(key), stored), "what a caller does to a tensor stays with it"
        assert torch.equal(found, 3 * stored)


@pytest.mark.parametrize("shape", [(6, 4, 5), (6, 0, 5), (6, 300, 1000)], ids=str)
def test_a_slice_is_that_of_the_whole(tmp_path, shape):
    stack = torch.randn(shape)
    save_file({"a": torch.ones(1), "experts": stack}, tmp_path / "m.safetensors")
    opened = open_source(tmp_path / "m.safetensors")
    assert all(torch.equal(part_of(opened, "experts", index), stack[index]) for index in range(len(stack)))


def test_a_file_cut_short_after_its_header_was_read_is_a_refusal(tmp_path):
    """A mapped file would end the process here."""
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.ones(1000, 1000), "b": torch.ones(4, 1000, 500)}, path)
    opened = open_source(path)
    with path.open("r+b") as file:
        file.truncate(9_000_000)
    assert torch.equal(opened.tensor("a"), torch.ones(1000, 1000))
    for read in (lambda: opened.tensor("b"), lambda: part_of(opened, "b", 3)):
        with pytest.raises(FormatError, match=r"m\.safetensors is truncated: tensor 'b' takes \d+ bytes"):
            read()
    assert torch.equal(part_of(opened, "b", 1), torch.ones(1000, 500))


def test_a_file_replaced_meanwhile_is_the_one_whose_header_was_read(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"a": torch.zeros(8, 8), "b": torch.zeros(8, 8)}, path)
    opened = open_source(path)
    opened.tensor("a")
    save_file({"a": torch.ones(8, 8), "b": torch.ones(8, 8)}, tmp_path / "new")
    (tmp_path / "new").rename(path)
    assert torch.equal(opened.tensor("b"), torch.zeros(8, 8))


def test_entries_smaller_than_a_byte_are_refused_by_name(tmp_path):
    header = b'{"w": {"dtype": "F4", "shape": [4, 2], "data_offsets": [0, 4]}}'
    (tmp_path / "m.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(UnsupportedError, match="'w' is stored as float4_e2m1fn_x2"):
        open_source(tmp_path / "m.safetensors").tensor("w")


def opened_files(folder):
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return [link for link in links if str(link.readlink()).startswith(str(folder))]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted in /proc")
def test_one_shard_is_open_at_a_time_and_none_after_closing(tmp_path):
    names = {f"w{number}": f"model-{number}.safetensors" for number in range(5)}
    for key, name in names.items():
        save_file({key: torch.ones(4, 4)}, tmp_path / name)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    opened = open_source(tmp_path)
    assert opened_files(tmp_path) == []
    for key in names:
        opened.tensor(key)
        assert len(opened_files(tmp_path)) == 1
    opened.close()
    assert opened_files(tmp_path) == []
    opened.tensor("w0")
    del opened
    assert opened_files(tmp_path) == [], "let go without closing"


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
def test_a_torch_file_that_cannot_be_mapped_is_read_once(tmp_path, monkeypatch, legacy):
    """It is in memory as a whole: to read it again for each window of 16 MB would free nothing."""
    tensors = {f"w{number}": torch.full((1000, 1000), float(number)) for number in range(12)}  # 48 MB
    torch.save(tensors, tmp_path / "w.bin", _use_new_zipfile_serialization=not legacy)
    loads, load = [], torch.load

    def counted(*given, **options):
        loads.append(options["mmap"])
        return load(*given, **options)

    monkeypatch.setattr(torch, "load", counted)
    opened = open_source(tmp_path / "w.bin")
    assert all(torch.equal(opened.tensor(key), tensor) for key, tensor in tensors.items())
    assert loads == [False] if legacy else len(loads) == 3 and all(loads)
    assert source._PICKLE_WINDOW == 16 * 2**20


def test_the_benchmark_of_reading_runs_and_reads_every_byte(tmp_path):
    words = [
        "benchmarks/reading.py",
        "--scale",
        "32",
        "--repeats",
        "1",
        "--folder",
        tmp_path,
        "--json",
        tmp_path / "r.json",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, words)]
    ended = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert ended.returncode == 0, ended.stderr
    found = json.loads((tmp_path / "r.json").read_text())["lines"]
    assert [(line["container"], line["cold"]) for line in found] == [
        (container, cold) for container in ("safetensors", "torch pickle", "experts") for cold in (False, True)
    ]
    assert all(line["source"]["bytes"] == line["plain"]["bytes"] > 0 for line in found)
