"""Distributed checkpoints of torch: as torch writes them, and built chunk by chunk where one process cannot.

Two ranks of FSDP wrote the cases of test_oracle; here torch's own writer makes what they leave out, and what torch
would read of it is the truth.
"""

import io
import json
import pickle
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from spectra import open_pairs
from spectra.errors import InputError, MatchError
from spectra.loaders import dcp_metadata
from spectra.loaders.base import open_base
from spectra.loaders.inspection.inspect import inspect
from spectra.loaders.source import open_source

NAMES = tuple(f"model.layers.{block}.self_attn.{name}_proj.weight" for block in range(2) for name in "qkv")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def save(folder, state):
    """Save with torch's own writer, in this process alone."""
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


def build(folder, tensors, blocks, *, files=2):
    """Write a checkpoint chunk by chunk, as ranks do. blocks : for each tensor its chunks as (offsets, sizes)."""
    folder.mkdir(parents=True, exist_ok=True)
    data, stored, described = [io.BytesIO() for _ in range(files)], {}, {}
    for key, value in tensors.items():
        chunks = blocks.get(key, [((0,) * value.ndim, tuple(value.shape))])
        for number, (offsets, sizes) in enumerate(chunks):
            place = tuple(slice(begin, begin + size) for begin, size in zip(offsets, sizes, strict=True))
            file = data[number % files]
            start = file.tell()
            torch.save(value[place].clone(), file)
            info = _StorageInfo(f"__{number % files}_0.distcp", start, file.tell() - start)
            stored[MetadataIndex(key, torch.Size(offsets), number)] = info
        described[key] = TensorStorageMetadata(
            TensorProperties(value.dtype), value.size(), [ChunkStorageMetadata(*map(torch.Size, c)) for c in chunks]
        )
    for number, file in enumerate(data):
        (folder / f"__{number}_0.distcp").write_bytes(file.getvalue())
    (folder / ".metadata").write_bytes(pickle.dumps(Metadata(described, None, stored)))
    return folder


def read(folder):
    source = open_source(folder)
    return {key: source.tensor(key) for key in source.header.tensors}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key].dtype == value.dtype, key
        assert torch.equal(found[key], value), key


def test_every_dtype_and_shape_is_read_to_the_bit(tmp_path):
    state = {
        "float32": draw(5, 3),
        "bfloat16": draw(4, 4).bfloat16(),
        "float16": draw(2, 3, 4).half(),
        "float64": draw(7).double(),
        "float8": draw(4, 4).to(torch.float8_e4m3fn),
        "whole": torch.arange(6).reshape(2, 3),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "turned": draw(6, 4).T,
        "view": draw(8, 8)[2:4, 1:5],
    }
    folder = save(tmp_path / "c", state)
    source = open_source(folder)
    assert source.header.container.startswith("DCP, ")
    for key, value in state.items():
        found = source.tensor(key)
        assert found.dtype == value.dtype
        assert torch.equal(found.view(torch.uint8) if key == "float8" else found, value.contiguous().view(torch.uint8) if key == "float8" else value), key  # fmt: skip


def test_it_is_what_torch_reads(tmp_path):
    state = {"model": {name: draw(6, 5, seed=place) for place, name in enumerate(NAMES)}, "step": 7}
    folder = save(tmp_path / "c", state)
    into = {"model": {name: torch.zeros(6, 5) for name in NAMES}, "step": 0}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.load(into, checkpoint_id=folder, no_dist=True)
    assert_same(read(folder), {f"model.{name}": value for name, value in into["model"].items()})


CUTS = {
    "rows": [((0, 0), (3, 6)), ((3, 0), (3, 6)), ((6, 0), (1, 6))],
    "columns": [((0, 0), (7, 2)), ((0, 2), (7, 4))],
    "a grid": [((0, 0), (4, 3)), ((0, 3), (4, 3)), ((4, 0), (3, 3)), ((4, 3), (3, 3))],
    "in another order": [((6, 0), (1, 6)), ((0, 0), (3, 6)), ((3, 0), (3, 6))],
    "uneven": [((0, 0), (2, 6)), ((2, 0), (5, 1)), ((2, 1), (5, 5))],
    "an empty one beside": [((0, 0), (7, 6)), ((7, 0), (0, 6))],
    "whole": [((0, 0), (7, 6))],
}


@pytest.mark.parametrize("cut", CUTS)
def test_chunks_are_put_together(tmp_path, cut):
    tensors = {"a": draw(7, 6), "b": draw(7, 6, seed=3).bfloat16(), "c": draw(9)}
    folder = build(tmp_path / "c", tensors, {"a": CUTS[cut], "b": CUTS[cut], "c": [((0,), (4,)), ((4,), (5,))]})
    assert_same(read(folder), tensors)


def test_hundreds_of_chunks_are_checked_and_read_in_no_time(tmp_path):
    tensors = {"a": draw(400, 3), "b": draw(3, 400), "c": draw(20, 20)}
    blocks = {
        "a": [((row, 0), (1, 3)) for row in range(400)],
        "b": [((0, column), (3, 1)) for column in range(400)],
        "c": [((row, column), (1, 1)) for row in range(20) for column in range(20)],
    }
    assert_same(read(build(tmp_path / "c", tensors, blocks)), tensors)


def base_of(folder, tensors):
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_a_fine_tune_is_found_below_its_wrappers_and_beside_its_optimizer(tmp_path):
    weights = {name: draw(6, 5, seed=place) for place, name in enumerate(NAMES)}
    tuned = {name: value + 0.25 for name, value in weights.items()}
    moments = {"state": {name: {"exp_avg": draw(6, 5), "step": torch.tensor(3.0)} for name in NAMES}, "lr": 0.1}
    base = base_of(tmp_path / "base", weights)
    for prefix in ("", "_orig_mod.", "module."):
        state = {"model": {prefix + name: value for name, value in tuned.items()}, "optimizer": moments, "epoch": 3}
        folder = save(tmp_path / f"c{prefix}", state)
        with open_pairs(base, folder) as pairs:
            assert set(pairs.keys) == set(NAMES)
            for pair in pairs:
                torch.testing.assert_close(pair.update.dense(), torch.full((6, 5), 0.25))
            assert {reason for _, reason in pairs.skipped} == {"not in the base"}
        assert not inspect(folder).suspicious


def test_the_model_inside_a_checkpoint_of_accelerate_is_read(tmp_path):
    weights = {name: draw(6, 5, seed=place) for place, name in enumerate(NAMES)}
    base = base_of(tmp_path / "base", weights)
    save(tmp_path / "c" / "pytorch_model_fsdp_0", {"model": {name: value + 1 for name, value in weights.items()}})
    save(tmp_path / "c" / "optimizer_0", {"optimizer": {"x": draw(3, 3)}})
    torch.save({"step": 3}, tmp_path / "c" / "scheduler.bin")
    with open_pairs(base, tmp_path / "c") as pairs:
        assert set(pairs.keys) == set(NAMES)
    assert inspect(tmp_path / "c").tensors == len(NAMES)
    (tmp_path / "c" / "scheduler.bin").unlink()
    assert inspect(tmp_path / "c").tensors == len(NAMES)
    (tmp_path / "run").mkdir()
    (tmp_path / "c").rename(tmp_path / "run" / "c")
    with pytest.raises(InputError, match="these do: c/optimizer_0, c/pytorch_model_fsdp_0"):
        inspect(tmp_path / "run")


def test_it_is_a_base_for_an_adapter(tmp_path):
    folder = save(tmp_path / "base", {"model": {name: draw(6, 5, seed=place) for place, name in enumerate(NAMES)}})
    module, adapter = NAMES[0].removesuffix(".weight"), tmp_path / "adapter"
    A, B = draw(2, 5), draw(6, 2)
    adapter.mkdir()
    prefix = f"base_model.model.{module}"
    save_file({f"{prefix}.lora_A.weight": A, f"{prefix}.lora_B.weight": B}, adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    with open_pairs(folder, adapter) as pairs:
        (pair,) = pairs
    assert pair.key == f"model.{NAMES[0]}"
    torch.testing.assert_close(pair.update.dense(), 2 * B @ A)
    assert torch.equal(pair.base, draw(6, 5, seed=0))


def test_weights_of_one_file_come_before_a_distributed_checkpoint(tmp_path):
    folder = save(tmp_path / "c", {"w": draw(3, 3)})
    save_file({"v": draw(2, 2)}, folder / "model.safetensors")
    assert list(open_base(folder).tensors) == ["v"]


def test_the_checkpoint_may_be_named_by_its_metadata_and_not_by_a_part(tmp_path):
    folder = save(tmp_path / "c", {"w": draw(3, 3)})
    assert list(open_source(folder / ".metadata").header.tensors) == ["w"]
    part = next(folder.glob("*.distcp"))
    for opened in (open_source, inspect):
        with pytest.raises(InputError, match=r"part of a distributed checkpoint\. Give the folder it lies in"):
            opened(part)
    (folder / ".metadata").unlink()
    for opened in (open_source, inspect):
        with pytest.raises(InputError, match=r"distributed checkpoint without its \.metadata"):
            opened(folder)


def test_metadata_of_older_versions_of_torch_is_read(tmp_path, monkeypatch):
    """Before 2.3 the properties of tensors were a class of another module; before 2.7 nothing told of transforms."""
    folder = build(tmp_path / "c", {"w": draw(4, 4)}, {"w": [((0, 0), (2, 4)), ((2, 0), (2, 4))]})
    old = types.ModuleType("torch.distributed._shard.sharded_tensor.metadata")
    raw = (folder / ".metadata").read_bytes()
    metadata = pickle.loads(raw)

    class Properties:
        def __getstate__(self):
            return (torch.float32, torch.strided, False, Format(0), False)

    class Format:
        def __init__(self, number):
            self.number = number

        def __reduce__(self):
            return Format, (self.number,)

    for kind, name in ((Properties, "TensorProperties"), (Format, "MEM_FORMAT_ENCODING")):
        kind.__module__, kind.__qualname__ = old.__name__, name
        setattr(old, name, kind)
    monkeypatch.setitem(sys.modules, old.__name__, old)
    metadata.state_dict_metadata["w"].properties = Properties()
    for protocol in (2, 4, 5):
        (folder / ".metadata").write_bytes(pickle.dumps(metadata, protocol))
        assert_same(read(folder), {"w": draw(4, 4)})


def test_objects_alone_are_no_checkpoint_of_weights(tmp_path):
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Metadata({"epoch": BytesStorageMetadata()}, None, {})))
    with pytest.raises(InputError, match=r"names no tensors \(epoch\)"):
        open_source(tmp_path)


def test_a_base_of_other_names_is_refused(tmp_path):
    base = base_of(tmp_path / "base", {"a.weight": draw(3, 3)})
    with pytest.raises(MatchError, match=r"x\.weight"):
        open_pairs(base, save(tmp_path / "c", {"x.weight": draw(3, 3)}))


def test_memory_is_that_of_one_tensor(tmp_path):
    """Only the chunks of the tensor asked for are opened."""
    folder = build(tmp_path / "c", {"a": draw(4, 4), "b": draw(4, 4)}, {}, files=1)
    source = open_source(folder)
    second = source.header.tensors["b"].chunks[0]
    raw = bytearray(Path(second.file).read_bytes())
    raw[second.start + 40 : second.start + second.length] = bytes(second.length - 40)
    Path(second.file).write_bytes(raw)
    assert torch.equal(source.tensor("a"), draw(4, 4))
    with pytest.raises(InputError, match=r"__0_0\.distcp"):
        source.tensor("b")


def test_inspection_says_what_it_is_without_torch(tmp_path):
    folder = save(tmp_path / "c", {"model": {name: draw(6, 5) for name in NAMES}})
    found = inspect(folder)
    assert (found.container, found.tensors, found.readable) == ("DCP, 1 file", len(NAMES), True)
    assert found.dtypes == {"float32": len(NAMES)}
    assert found.bytes == len(NAMES) * 6 * 5 * 4
    assert "torch" not in vars(dcp_metadata)
