"""Links in checkpoints: those that stay in the folder, or in the Hub's repository, are followed; others are not."""

import json
import os
import shutil
import socket
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

import spectra
from spectra import testing
from spectra.errors import InputError, UnsafeFileError
from spectra.loaders.inspection.inspect import inspect

LEAVES = "is a link that leaves"
BASE = testing.llama(seed=0, blocks=1, width=8, vocabulary=8)
TUNED = {key: tensor + 0.1 for key, tensor in BASE.items()}
OPENED: list[str] = []


def _remember(event, arguments):
    if event == "open" and OPENED:
        OPENED.append(os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes) else "")


sys.addaudithook(_remember)


def adapter(folder):
    return testing.save_lora(folder, testing.lora(BASE, seed=1), alpha=4)


def sharded(folder):
    return testing.save_checkpoint(folder, TUNED, container="sharded", shards=3)


def distributed(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(dict(TUNED), checkpoint_id=folder, no_dist=True)
    return folder


def inner_distributed(folder):
    distributed(folder / "pytorch_model_fsdp_0")
    return folder


def pipeline(folder):
    for component in ("unet", "vae"):
        testing.save_checkpoint(folder / component, TUNED)
    (folder / "model_index.json").write_text(json.dumps({name: ["diffusers", "Model"] for name in ("unet", "vae")}))
    return folder


def mlx(folder):
    folder.mkdir()
    own = {"fine_tune_type": "lora", "lora_parameters": {"rank": 4, "scale": 2.0}}
    (folder / "adapter_config.json").write_text(json.dumps(own))
    factors = testing.lora(BASE, seed=1)
    arrays = {f"{name}.lora_a": A.T.numpy() for name, (_, A) in factors.items()}
    np.savez(folder / "adapters.npz", **arrays, **{f"{name}.lora_b": B.T.numpy() for name, (B, _) in factors.items()})
    return folder


def long_lora(folder):
    torch.save({"model.norm.weight": torch.zeros(8)}, adapter(folder) / "trainable_params.bin")
    return folder


def loralib(folder):
    folder.mkdir()
    factors = testing.lora(BASE, seed=1)
    tensors = {f"{name}.lora_A": A for name, (_, A) in factors.items()}
    save_file(tensors | {f"{name}.lora_B": B for name, (B, _) in factors.items()}, folder / "lora.safetensors")
    (folder / "train_args.json").write_text(json.dumps({"lora_r": 4, "lora_alpha": 8}))
    return folder


def gguf_shards(folder):
    gguf = pytest.importorskip("gguf")
    folder.mkdir()
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama", split_max_tensors=2)
    for block in range(5):
        writer.add_tensor(f"blk.{block}.ffn_up.weight", np.full((6, 4), float(block), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder


def gptq(folder):
    """A folder with what AutoGPTQ wrote beside config.json; its weights are plain."""
    testing.save_checkpoint(folder, TUNED)
    (folder / "quantize_config.json").write_text(json.dumps({"bits": 4}))
    return folder


KINDS = {
    "a checkpoint": (lambda folder: testing.save_checkpoint(folder, TUNED), "base"),
    "shards": (sharded, "base"),
    "a torch pickle": (lambda folder: testing.save_checkpoint(folder, TUNED, container="bin"), "base"),
    "a distributed checkpoint": (distributed, "base"),
    "one in a folder below": (inner_distributed, "base"),
    "a pipeline": (pipeline, "base"),
    "a split GGUF": (gguf_shards, "base"),
    "a file of AutoGPTQ": (gptq, "base"),
    "PEFT": (adapter, "tuned"),
    "MLX, NumPy": (mlx, "tuned"),
    "LongLoRA": (long_lora, "tuned"),
    "loralib": (loralib, "tuned"),
}


@pytest.fixture
def stranger(tmp_path):
    """Make the folder of a kind and its place among base and tuned."""

    def _stranger(kind):
        make, role = KINDS[kind]
        folder = make(tmp_path / "stranger")
        return folder, role

    return _stranger


@pytest.fixture
def read(tmp_path):
    """Read every pair of a folder, beside a model that fits it; the other side of a base is the base itself."""
    plain = testing.save_checkpoint(tmp_path / "plain", BASE)

    def _read(folder, role="tuned", **options):
        sides = (folder, folder) if role == "base" else (plain, folder)
        with spectra.open_pairs(*sides, **options) as pairs:
            return {pair.key: pair.base + pair.update.dense() for pair in pairs}

    return _read


@pytest.fixture
def opened():
    """Every path opened during the test, from an audit hook of the interpreter."""
    OPENED[:] = ["recording"]
    yield OPENED
    OPENED.clear()


@pytest.fixture
def move_out(tmp_path):
    """Put a link in the place of a file or folder, and return the path outside where it now is."""

    def _move_out(path):
        target = tmp_path / "elsewhere" / f"secret-{path.name}"
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
        path.symlink_to(target)
        return target

    return _move_out


@pytest.mark.parametrize("kind", KINDS)
def test_no_file_of_any_kind_of_checkpoint_is_read_through_a_link_that_leaves(stranger, read, move_out, opened, kind):
    folder, role = stranger(kind)
    whole = read(folder, role)
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    for path in files:
        target = move_out(path)
        opened[:] = ["recording"]
        with pytest.raises(UnsafeFileError, match=f"'{path.name}' {LEAVES}"):
            read(folder, role)
        assert not {str(path), str(target)} & set(opened)
        followed = read(folder, role, follow_symlinks=True)
        assert followed.keys() == whole.keys()
        assert all(torch.equal(followed[key], tensor) for key, tensor in whole.items())
        assert {str(path), str(target)} & set(opened), "the hook sees what is opened"
        path.unlink()
        target.rename(path)
    assert files


@pytest.mark.parametrize("kind", KINDS)
def test_inspect_keeps_to_it_too(stranger, move_out, opened, kind):
    folder, _ = stranger(kind)
    if kind == "a pipeline":
        folder /= "unet"  # of a pipeline inspect only says where its weights are
    whole = inspect(folder)
    read = 0
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        target = move_out(path)
        opened[:] = ["recording"]
        try:
            found = str(inspect(folder))
        except UnsafeFileError as fault:
            found, read = str(fault), read + 1
        assert found == str(whole) or f"'{path.name}' {LEAVES}" in found
        assert not {str(path), str(target)} & set(opened)
        assert inspect(folder, follow_symlinks=True) == whole
        path.unlink()
        target.rename(path)
    assert read


def test_the_refusal_names_link_folder_target_and_the_way_round(read, move_out, refused, tmp_path):
    folder = adapter(tmp_path / "stranger")
    target = move_out(folder / "adapter_model.safetensors")
    refused(
        lambda: read(folder),
        f"'adapter_model.safetensors' is a link that leaves 'stranger', to '{target}'",
        "--follow-symlinks",
        "follow_symlinks=True",
        kind=UnsafeFileError,
    )


def test_a_component_s_folder_that_is_a_link_is_refused_as_its_files_are(read, move_out, opened, tmp_path):
    folder = pipeline(tmp_path / "stranger")
    target = move_out(folder / "unet")
    opened[:] = ["recording"]
    with pytest.raises(UnsafeFileError, match=f"'unet' {LEAVES} 'stranger'"):
        read(folder, "base")
    assert not [path for path in opened if path.startswith((str(target), str(folder / "unet")))]
    assert len(read(folder, "base", follow_symlinks=True)) == 2 * 9


def test_links_within_a_folder_are_followed_in_chains_and_between_components(read, tmp_path):
    folder = pipeline(tmp_path / "stranger")
    whole = read(folder, "base")
    weights = folder / "vae" / "model.safetensors"
    weights.rename(folder / "kept")
    (folder / "chain").symlink_to("kept")
    weights.symlink_to("../unet/../chain")
    (folder / "unet" / "config.json").unlink()
    (folder / "unet" / "config.json").symlink_to("../vae/config.json")
    assert all(torch.equal(tensor, whole[key]) for key, tensor in read(folder, "base").items())


def test_a_chain_is_judged_by_where_it_ends(read, move_out, tmp_path):
    folder = adapter(tmp_path / "stranger")
    (folder / "inner").symlink_to(move_out(folder / "adapter_model.safetensors"))
    (folder / "adapter_model.safetensors").unlink()
    (folder / "adapter_model.safetensors").symlink_to("inner")
    with pytest.raises(UnsafeFileError, match=LEAVES):
        read(folder)


def as_in_the_hub_s_cache(root, folder):
    """Lay a folder out as the Hub's cache does and return its snapshot."""
    repository = root / "hub" / "models--owner--name"
    blobs, snapshot = repository / "blobs", repository / "snapshots" / ("0" * 40)
    blobs.mkdir(parents=True)
    for number, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, blobs / f"{number:064x}")
        link.symlink_to(os.path.relpath(blobs / f"{number:064x}", link.parent))
    return snapshot


@pytest.mark.parametrize("kind", KINDS)
def test_the_hub_s_cache_is_read_as_it_is(stranger, read, tmp_path, kind):
    folder, role = stranger(kind)
    snapshot = as_in_the_hub_s_cache(tmp_path, folder)
    alias = tmp_path / "my-model"
    alias.symlink_to(snapshot)
    whole = read(folder, role)
    for path in (snapshot, alias):
        found = read(path, role)
        assert all(torch.equal(found[key], tensor) for key, tensor in whole.items())
    if kind != "a pipeline":
        assert inspect(snapshot).listed == inspect(folder).listed


def test_a_file_in_the_hub_s_cache_may_be_named_itself(read, tmp_path):
    snapshot = as_in_the_hub_s_cache(tmp_path, sharded(tmp_path / "stranger"))
    whole = read(tmp_path / "stranger", "base")
    found = read(snapshot / "model.safetensors.index.json", "base")
    assert all(torch.equal(found[key], tensor) for key, tensor in whole.items())
    assert spectra.open_pairs(snapshot, snapshot).base.source.label == "owner/name"


def test_a_link_out_of_a_repository_of_the_hub_is_refused(read, tmp_path):
    snapshot = as_in_the_hub_s_cache(tmp_path, adapter(tmp_path / "stranger"))
    other = tmp_path / "hub" / "models--owner--private"
    other.mkdir()
    shutil.move((snapshot / "adapter_model.safetensors").resolve(), other / "blob")
    (snapshot / "adapter_model.safetensors").unlink()
    (snapshot / "adapter_model.safetensors").symlink_to(other / "blob")
    with pytest.raises(UnsafeFileError, match=f"{LEAVES} 'models--owner--name'"):
        read(snapshot)


@pytest.mark.parametrize("name", ["models--owner--name", "snapshots", "my models--x"])
def test_a_name_of_the_hub_s_alone_opens_nothing(read, move_out, tmp_path, name):
    folder = adapter(tmp_path / name / "adapter")
    move_out(folder / "adapter_config.json")
    with pytest.raises(UnsafeFileError, match=f"{LEAVES} 'adapter'"):
        read(folder)


def test_what_a_user_names_may_be_a_link(read, move_out, tmp_path):
    folder = adapter(tmp_path / "stranger")
    whole = read(folder)
    move_out(folder)
    found = read(folder)
    assert all(torch.equal(found[key], tensor) for key, tensor in whole.items())
    checkpoint = testing.save_checkpoint(tmp_path / "checkpoint", TUNED)
    move_out(checkpoint / "model.safetensors")
    assert read(checkpoint / "model.safetensors", "base").keys() == read(tmp_path / "plain", "base").keys()


def test_what_lies_beside_a_named_file_may_not(read, move_out, tmp_path):
    folder = adapter(tmp_path / "stranger")
    move_out(folder / "adapter_config.json")
    with pytest.raises(UnsafeFileError, match=f"'adapter_config.json' {LEAVES}"):
        read(folder / "adapter_model.safetensors")


def test_an_index_that_is_a_link_may_be_named_and_its_shards_lie_beside_it(read, move_out, tmp_path):
    folder = sharded(tmp_path / "stranger")
    move_out(folder / "model.safetensors.index.json")
    with pytest.raises(UnsafeFileError, match=f"'model.safetensors.index.json' {LEAVES}"):
        read(folder, "base")
    assert read(folder / "model.safetensors.index.json", "base")


def test_the_adapter_before_training_is_held_to_it(read, move_out, tmp_path):
    trained, start = adapter(tmp_path / "stranger"), adapter(tmp_path / "start")
    move_out(start / "adapter_model.safetensors")
    with pytest.raises(UnsafeFileError, match=f"{LEAVES} 'start'"):
        read(trained, initial=start)
    assert read(trained, initial=start, follow_symlinks=True)
    with pytest.raises(InputError, match=r"stat' does not exist. Did you mean '.*start'"):
        read(trained, initial=tmp_path / "stat")


def test_a_link_put_in_place_of_a_file_after_it_was_opened_is_refused(move_out, tmp_path):
    plain, folder = (testing.save_checkpoint(tmp_path / name, BASE, container="bin") for name in ("plain", "stranger"))
    with spectra.open_pairs(plain, folder) as pairs:
        move_out(folder / "pytorch_model.bin")
        with pytest.raises(UnsafeFileError, match=LEAVES):
            pairs.pair("model.embed_tokens.weight")


def test_a_folder_is_held_to_it_beside_a_model_in_memory(move_out, tmp_path):
    folder = adapter(tmp_path / "stranger")
    assert len(spectra.open_pairs(BASE, folder)) == 2
    move_out(folder / "adapter_model.safetensors")
    with pytest.raises(UnsafeFileError, match=LEAVES):
        spectra.open_pairs(BASE, folder)
    checkpoint = testing.save_checkpoint(tmp_path / "checkpoint", BASE)
    move_out(checkpoint / "config.json")
    with pytest.raises(UnsafeFileError, match=LEAVES):
        spectra.open_pairs(checkpoint, TUNED)


def test_a_broken_link_is_named_and_no_file_is_read_in_its_place(read, refused, tmp_path):
    folder = testing.save_checkpoint(tmp_path / "stranger", TUNED, container="bin")
    for name in ("model.safetensors", "config.json", "adapter_config.json"):
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to("gone")
        refused(lambda: read(folder, "base"), f"'{name}' is a link to nothing", kind=InputError)
        (folder / name).unlink()
    long = long_lora(tmp_path / "long")
    (long / "trainable_params.bin").unlink()
    (long / "trainable_params.bin").symlink_to("gone")
    refused(lambda: read(long), "'trainable_params.bin' is a link to nothing", kind=InputError)


def test_the_folder_we_are_in_may_be_named_by_a_dot(read, move_out, tmp_path, monkeypatch):
    folder = adapter(tmp_path / "stranger")
    monkeypatch.chdir(folder)
    assert read(".").keys() == read("adapter_model.safetensors").keys()
    move_out(folder / "adapter_config.json")
    for named in (".", "adapter_model.safetensors", "../stranger"):
        with pytest.raises(UnsafeFileError, match=f"'adapter_config.json' {LEAVES} 'stranger'"):
            read(named)


def loop(path):
    path.with_name("loop").symlink_to(path.name)
    path.symlink_to("loop")


def listening(path):
    own = socket.socket(socket.AF_UNIX)
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket may have a hundred characters
    try:
        own.bind(path.name)
    finally:
        os.chdir(here)
        own.close()


SPECIAL = {
    "a loop": (loop, "Too many levels of symbolic links"),
    "a pipe": (os.mkfifo, "is not a regular file"),
    "a socket": (listening, "is not a regular file"),
    "an endless device": (lambda path: path.symlink_to("/dev/zero"), "is not a regular file"),
    "a link to a pipe": (lambda path: (os.mkfifo(path.with_name("pipe")), path.symlink_to("pipe")), "not a regular"),
}


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize(("make", "words"), SPECIAL.values(), ids=SPECIAL)
def test_what_is_no_file_is_refused_at_once(read, refused, tmp_path, make, words, follow):
    folder = sharded(tmp_path / "stranger")
    (folder / "model-00002-of-00003.safetensors").unlink()
    make(folder / "model-00002-of-00003.safetensors")
    for call in (
        lambda: read(folder, "base", follow_symlinks=follow),
        lambda: read(folder, follow_symlinks=follow),
        lambda: inspect(folder, follow_symlinks=follow),
    ):
        refused(call, "'model-00002-of-00003.safetensors'", words)
