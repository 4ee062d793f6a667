"""The cache of bases gives back what was put in, or says that it cannot: whatever happens to a file or a writer."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import spectra
from spectra import basis_cache, testing
from spectra.basis_cache import BasisCache, entry_bytes, folder
from spectra.engine import dense
from spectra.errors import FormatError, MachineError

MATRIX = testing.decaying(6, 5, seed=0).float()


@pytest.fixture
def cache(tmp_path):
    return BasisCache(tmp_path / "bases")


def keep(cache, matrix=MATRIX):
    return cache.keep(matrix, dense.svd(matrix))


def hidden(cache):
    return [path.name for path in cache.folder.iterdir() if path.name.startswith(".")]


# --- what is kept


@pytest.mark.parametrize("half_above", [0, 1024])
@pytest.mark.parametrize("shape", [(6, 5), (40, 90), (90, 40), (1, 7)])
def test_what_is_found_is_what_was_kept(tmp_path, shape, half_above):
    matrix = testing.decaying(*shape, seed=1).float()
    made = dense.svd(matrix)
    cache = BasisCache(tmp_path / "a" / "b", half_above=half_above)
    assert cache.find(matrix) is None
    path = cache.keep(matrix, made)
    found = cache.find(matrix)
    assert torch.equal(found.S, made.S)
    assert (found.U.dtype, found.Vh.dtype) == (torch.float32, torch.float32)
    off = max(torch.linalg.matrix_norm(now - then, 2) for now, then in ((found.U, made.U), (found.Vh, made.Vh)))
    assert float(off) <= found.vector_error + 1e-7
    assert (found.vector_error > 0) == (half_above == 0)
    assert (found.residual, found.orthogonality, found.device) == (made.residual, made.orthogonality, made.device)
    assert found.method.startswith(made.method)
    assert cache.entries() == [path]
    assert cache.bytes() == path.stat().st_size


def test_an_entry_is_a_safetensors_file_of_the_size_foretold(cache):
    path = keep(cache)
    assert set(load_file(path)) == {"U", "S", "Vh", "checksum"}
    assert path.stat().st_size == pytest.approx(entry_bytes((6, 5)), rel=0.2)
    assert entry_bytes((2048, 2048)) < 4.01 * 2048**2


def test_values_beyond_float32_come_back_in_float64(cache):
    matrix = MATRIX * 1e38
    made = dense.svd(matrix * 5)
    assert made.S.dtype == torch.float64
    cache.keep(matrix, made)
    found = cache.find(matrix)
    assert torch.equal(found.S, made.S)
    assert found.U.dtype == torch.float64


def test_an_entry_belongs_to_the_content_alone(cache):
    keep(cache)
    assert cache.find(MATRIX.T.contiguous().T) is not None
    assert cache.find(MATRIX.T.contiguous()) is None
    assert cache.find(MATRIX.reshape(5, 6)) is None
    changed = MATRIX.clone()
    changed[5, 4] += 1e-6
    assert cache.find(changed) is None


def test_a_new_format_has_new_names(cache, monkeypatch):
    keep(cache)
    monkeypatch.setattr(basis_cache, "_FORMAT", "spectra basis 2")
    assert cache.find(MATRIX) is None


def test_nothing_is_hashed_where_no_entry_has_the_shape(cache, monkeypatch):
    monkeypatch.setattr(basis_cache, "_name", lambda _: pytest.fail("hashed"))
    assert cache.find(MATRIX) is None
    cache.folder.mkdir()
    (cache.folder / f"7x5-{'0' * 64}.safetensors").write_bytes(b"")
    assert cache.find(MATRIX) is None


# --- broken files


@pytest.mark.parametrize("half_above", [0, 1024])
def test_every_byte_counts(cache, half_above):
    path = keep(BasisCache(cache.folder, half_above=half_above))
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << place % 8)]) + whole[place + 1 :])
        with pytest.raises(FormatError, match="is broken"):
            cache.find(MATRIX)
        assert not path.exists()
    path.write_bytes(whole)
    assert cache.find(MATRIX) is not None


def test_a_block_beyond_the_first_counts(cache, monkeypatch):
    monkeypatch.setattr(basis_cache, "_BLOCK", 64)
    path = keep(cache)
    whole = bytearray(path.read_bytes())
    blocks = [bytes(whole[at : at + 64]) for at in range(0, 320, 64)]
    path.write_bytes(b"".join([blocks[0], blocks[2], blocks[1], *blocks[3:], whole[320:]]))
    with pytest.raises(FormatError, match="its checksum does not fit"):
        cache.find(MATRIX)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda whole: b"", "it is too short"),
        (lambda whole: whole[:32], "it is too short"),
        (lambda whole: whole[:-1], "its checksum does not fit"),
        (lambda whole: whole[: len(whole) // 2], "its checksum does not fit"),
        (lambda whole: whole + b"\0", "its checksum does not fit"),
        (lambda whole: b"#!/bin/sh\n" * 40, "its checksum does not fit"),
    ],
)
def test_a_broken_entry_is_named_and_removed(cache, spoil, reason):
    path = keep(cache)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(FormatError) as refusal:
        cache.find(MATRIX)
    assert str(refusal.value) == f"the cache entry '{path}' is broken: {reason}; it was removed."
    assert cache.find(MATRIX) is None
    keep(cache)
    assert cache.find(MATRIX) is not None


def test_an_entry_under_another_name_is_not_believed(cache):
    other = testing.decaying(6, 5, seed=9).float()
    right, wrong = keep(cache), keep(cache, other)
    right.replace(wrong)
    with pytest.raises(FormatError, match="the decomposition of another matrix"):
        cache.find(other)


def test_foreign_files_are_left_alone(cache):
    path = keep(cache)
    foreign = [cache.folder / name for name in ("notes.txt", "6x5-abc.safetensors", ".hidden", f"{path.name}.bak")]
    for file in foreign:
        file.write_text("mine")
        os.utime(file, (0, 0))
    (cache.folder / "folder").mkdir()
    assert cache.entries() == [path]
    keep(cache)
    assert all(file.read_text() == "mine" for file in foreign)


# --- writers


WRITER = """
import os, sys, time
from pathlib import Path
from spectra import testing
from spectra.basis_cache import BasisCache
from spectra.engine import dense
cache = BasisCache(Path(sys.argv[1]))
if sys.argv[2] == "hang":
    def hang(_):
        print("writing", flush=True)
        time.sleep(600)
    os.fsync = hang
else:
    Path(sys.argv[3]).touch()
    while len(list(Path(sys.argv[3]).parent.glob("ready*"))) < 2:
        time.sleep(0.01)
for turn in range(12):
    matrix = testing.decaying(40, 30, seed=turn % 4).float()
    if sys.argv[2] == "hang" or cache.find(matrix) is None or turn >= 4:
        cache.keep(matrix, dense.svd(matrix))
"""


def writer(cache, *words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(cache.folder), *map(str, words)], env=environment, stdout=subprocess.PIPE
    )


@pytest.mark.slow
def test_two_writers_leave_valid_entries(cache, tmp_path):
    both = [writer(cache, "fill", tmp_path / f"ready{number}") for number in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    for process in both:
        process.stdout.close()
    assert len(cache.entries()) == 4
    assert hidden(cache) == []
    for seed in range(4):
        matrix = testing.decaying(40, 30, seed=seed).float()
        assert torch.equal(cache.find(matrix).S, dense.svd(matrix).S)


@pytest.mark.slow
def test_a_writer_killed_in_the_middle_leaves_a_usable_cache(cache):
    keep(cache)
    with writer(cache, "hang") as killed:
        assert killed.stdout.readline() == b"writing\n"
        killed.kill()
    assert len(hidden(cache)) == 1
    assert len(cache.entries()) == 1
    matrix = testing.decaying(40, 30, seed=0).float()
    assert cache.find(matrix) is None
    assert cache.find(MATRIX) is not None
    keep(cache, matrix)
    assert len(hidden(cache)) == 1, "a young file may be another writer's"
    past = time.time() - 7200
    os.utime(cache.folder / hidden(cache)[0], (past, past))
    keep(cache, matrix)
    assert hidden(cache) == []
    assert cache.find(matrix) is not None


# --- the folder


def test_the_folder_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("SPECTRA_CACHE", "/somewhere")
    assert folder() == Path("/somewhere/bases")


@pytest.mark.parametrize(
    ("platform", "environment", "expected"),
    [
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/spectra/bases"),
        ("linux", {"XDG_CACHE_HOME": "relative"}, "/home/me/.cache/spectra/bases"),
        ("linux", {}, "/home/me/.cache/spectra/bases"),
        ("darwin", {"XDG_CACHE_HOME": "/x"}, "/home/me/Library/Caches/spectra/bases"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/spectra/bases"),
        ("win32", {}, "/home/me/AppData/Local/spectra/bases"),
    ],
)
def test_the_folder_is_the_users_cache(monkeypatch, platform, environment, expected):
    for name in ("SPECTRA_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    assert folder() == Path(expected)


def test_no_home_folder_is_said_with_the_way_out(monkeypatch):
    for name in ("SPECTRA_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)

    def homeless():
        raise RuntimeError

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(MachineError, match="set SPECTRA_CACHE"):
        folder()


def test_a_folder_that_cannot_be_is_the_machines_fault(tmp_path):
    (tmp_path / "file").write_text("in the way")
    for cache in (BasisCache(tmp_path / "file"), BasisCache(tmp_path / "file" / "bases")):
        with pytest.raises(MachineError, match=r"Free space there, or set SPECTRA_CACHE to another folder\."):
            keep(cache)
        with pytest.raises(MachineError, match="Set SPECTRA_CACHE to another folder"):
            cache.find(MATRIX)


def test_a_full_disk_is_the_machines_fault_and_leaves_nothing(cache, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MachineError, match=r"No space left on device\. Free space there, or set SPECTRA_CACHE"):
        keep(cache)
    assert list(cache.folder.iterdir()) == []


def test_a_broken_entry_that_cannot_be_removed_is_not_used(cache, monkeypatch):
    path = keep(cache)
    path.write_bytes(b"broken" * 20)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(FormatError, match=r"it cannot be removed \(Permission denied\) and is not used\."):
        cache.find(MATRIX)


def test_an_entry_that_cannot_be_opened_is_the_machines_fault(cache):
    path = keep(cache)
    path.unlink()
    path.mkdir()
    with pytest.raises(MachineError, match=r"cannot be read: Is a directory\. Set SPECTRA_CACHE"):
        cache.find(MATRIX)


# --- in a diagnosis


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("SPECTRA_CACHE", str(tmp_path / "cache"))
    return BasisCache(tmp_path / "cache" / "bases")


FROM_CACHE = "the decomposition of its base is from the cache of bases"


def test_a_filled_cache_answers_as_the_exact_path(own, trio):
    filled = spectra.fill_base_cache(trio / "base")
    assert (len(filled.made), filled.present, filled.failed) == (36, [], [])
    assert filled.bytes == own.bytes() > 0
    exact = spectra.diagnose(trio / "base", trio / "lora-r2", method="exact")
    found = spectra.diagnose(trio / "base", trio / "lora-r2", method="basis")
    assert {row.method for row in found.rows} == {"basis"}
    assert all(FROM_CACHE in row.notes for row in found.rows)
    assert not any(FROM_CACHE in row.notes for row in exact.rows)
    for row, reference in zip(found.rows, exact.rows, strict=True):
        (side,), (truth,) = row.intruders, reference.intruders
        assert (side.count, side.verdict) == (truth.count, truth.verdict)
        for low, value, high in zip(side.similarity, truth.similarity, side.similarity_bound, strict=True):
            assert low - 1e-4 <= value <= high + 1e-4


def test_the_basis_method_keeps_what_it_made_and_the_others_only_read(own, trio):
    pattern = ["*layers.1.*q_proj*"]
    for method in ("auto", "exact", "certified"):
        spectra.diagnose(trio / "base", trio / "lora-r2", method=method, include=pattern)
        assert not own.folder.exists()
    (first,) = spectra.diagnose(trio / "base", trio / "lora-r2", method="basis", include=pattern).rows
    (second,) = spectra.diagnose(trio / "base", trio / "lora-r32", method="basis", include=pattern).rows
    assert len(own.entries()) == 1
    assert FROM_CACHE not in first.notes
    assert FROM_CACHE in second.notes


def test_a_base_made_for_one_model_is_not_from_the_cache_for_the_next(own, trio):
    models = {"a": trio / "lora-r2", "b": trio / "lora-r32"}
    found = spectra.compare(trio / "base", models, include=["*layers.1.*q_proj*"], method="basis")
    assert len(own.entries()) == 1
    assert not any(FROM_CACHE in row.notes for model in found.models.values() for row in model.rows)


def test_auto_reads_the_cache(own, trio, monkeypatch):
    spectra.fill_base_cache(trio / "base", include="*layers.1.*q_proj*")
    looked = []
    find = BasisCache.find
    monkeypatch.setattr(BasisCache, "find", lambda cache, matrix: looked.append(find(cache, matrix)) or looked[-1])
    spectra.compare(
        trio / "base", {"a": trio / "lora-r2", "b": trio / "lora-r32"}, include=["*layers.1.*q_proj*"], method="auto"
    )
    assert [found is not None for found in looked] == [True], "once a matrix, whatever the number of models"


def test_a_broken_entry_is_a_note_and_is_made_again(own, trio):
    pattern = ["*layers.1.*q_proj*"]
    spectra.fill_base_cache(trio / "base", include=pattern)
    (entry,) = own.entries()
    whole = entry.read_bytes()
    entry.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    (row,) = spectra.diagnose(trio / "base", trio / "lora-r2", method="basis", include=pattern).rows
    assert row.ok
    assert any(entry.name in note and "is broken" in note for note in row.notes)
    assert FROM_CACHE not in row.notes
    (again,) = spectra.diagnose(trio / "base", trio / "lora-r2", method="basis", include=pattern).rows
    assert FROM_CACHE in again.notes


def test_a_cache_that_cannot_be_used_costs_no_row(own, trio):
    own.folder.parent.mkdir()
    own.folder.write_text("in the way")
    pattern = ["*layers.1.*q_proj*"]
    (row,) = spectra.diagnose(trio / "base", trio / "lora-r2", method="basis", include=pattern).rows
    assert row.ok
    assert any("the cache of bases did not help" in note for note in row.notes)
    assert any("its decomposition was not kept" in note for note in row.notes)
