"""GGUF files and distributed checkpoints that lie, lead elsewhere or would run code: refused before anything is read."""

import io
import os
import pickle
import struct
import time
import zipfile
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from spectra.errors import FormatError, InputError, UnsafeFileError, UnsupportedError
from spectra.loaders.inspection.inspect import inspect
from spectra.loaders.source import open_source

NAME = "model.layers.0.self_attn.q_proj.weight"
DATA = "__0_0.distcp"


@pytest.fixture
def sentinel(tmp_path):
    """A path that a hostile pickle would create if it ran; nothing may."""
    path = tmp_path / "executed"
    yield path
    assert not path.exists()


class Runs:
    """Pickled as a call that creates a file."""

    def __init__(self, path, function=os.system):
        self.call = function, (f"touch {path}" if function is os.system else str(path),)

    def __reduce__(self):
        return self.call


# ---- distributed checkpoints


def write(folder, *, change=None, tensor=None, raw=None):
    """Write a checkpoint of one 8 x 4 tensor in two chunks, its metadata changed by `change(metadata)`."""
    folder.mkdir(exist_ok=True)
    whole = torch.arange(32.0).reshape(8, 4) if tensor is None else tensor
    data, stored, chunks = io.BytesIO(), {}, []
    for number, rows in enumerate((whole[:5], whole[5:])):
        start, offsets = data.tell(), torch.Size((5 * number, 0))
        torch.save(rows.clone(), data)
        stored[MetadataIndex(NAME, offsets, number)] = _StorageInfo(DATA, start, data.tell() - start)
        chunks.append(ChunkStorageMetadata(offsets, rows.size()))
    described = {NAME: TensorStorageMetadata(TensorProperties(whole.dtype), whole.size(), chunks)}
    metadata = Metadata(described, None, stored)
    if change is not None:
        change(metadata)
    (folder / DATA).write_bytes(data.getvalue() if raw is None else raw)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    return folder


def infos(metadata):
    return list(metadata.storage_data.values())


def described(metadata):
    return metadata.state_dict_metadata[NAME]


def test_the_crafted_checkpoint_is_read_when_nothing_is_changed(tmp_path):
    assert torch.equal(open_source(write(tmp_path / "c")).tensor(NAME), torch.arange(32.0).reshape(8, 4))


CODE = {
    "in the planner's data": lambda m, evil: setattr(m, "planner_data", {"x": evil}),
    "in the storage's data": lambda m, evil: m.storage_data.update({MetadataIndex("x"): evil}),
    "as a tensor": lambda m, evil: m.state_dict_metadata.update({"x": evil}),
    "as a size": lambda m, evil: setattr(described(m), "size", evil),
    "as a path": lambda m, evil: setattr(infos(m)[0], "relative_path", evil),
    "as a version": lambda m, evil: setattr(m, "version", [[evil]]),
}


@pytest.mark.parametrize("place", CODE)
def test_metadata_that_would_run_code_are_refused_by_its_name(tmp_path, sentinel, refused, base, pairs, place):
    folder = write(tmp_path / "c", change=lambda m: CODE[place](m, Runs(sentinel)))
    for call in (lambda: open_source(folder), lambda: pairs(base, folder), lambda: pairs(folder, base)):
        refused(call, "posix.system", kind=UnsafeFileError)


def test_inspection_describes_metadata_that_would_run_code_and_does_not_open_them(tmp_path, sentinel):
    found = inspect(write(tmp_path / "c", change=lambda m: setattr(m, "planner_data", Runs(sentinel))))
    assert (found.hostile, found.readable, found.tensors) == (True, False, 0)
    assert "posix.system" in found.suspicious[0]


@pytest.mark.parametrize(
    "name",
    [
        "builtins eval", "builtins getattr", "torch load", "torch.hub load", "os system", "subprocess Popen",
        "torch.distributed.checkpoint.metadata os.system", "torch.distributed.checkpoint.metadata os",
        "torch.distributed.checkpoint.filesystem FileSystemReader", "torch.distributed.checkpoint.metadata Metadata.__init__",
        "pathlib Path.unlink", "torch._utils _rebuild_tensor_v2", "functools partial", "importlib import_module",
    ],
)  # fmt: skip
def test_any_other_global_is_refused(tmp_path, refused, name):
    folder = write(tmp_path / "c")
    module, _, attribute = name.partition(" ")
    texts = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, attribute))
    (folder / ".metadata").write_bytes(b"\x80\x04" + texts + b"\x93\x8c\x01x\x85R.")
    refused(lambda: open_source(folder), name.replace(" ", "."), kind=UnsafeFileError)


def test_a_chunk_that_would_run_code_is_refused(tmp_path, sentinel, refused):
    source = open_source(replaced(tmp_path, saved({"w": Runs(sentinel)}) + bytes(80)))
    refused(lambda: source.tensor(NAME), "posix.system", kind=UnsafeFileError)


def shape(*sizes):
    return torch.Size(sizes)


LIES = {
    "an offset past the end": (lambda m: setattr(infos(m)[1], "offset", 2**40), FormatError, "ends after"),
    "a length past the end": (lambda m: setattr(infos(m)[1], "length", 10**6), FormatError, "ends after"),
    "a negative offset": (lambda m: setattr(infos(m)[1], "offset", -1), FormatError, "ends after"),
    "an offset that is no number": (lambda m: setattr(infos(m)[1], "offset", "0"), FormatError, "ends after"),
    "no length": (lambda m: setattr(infos(m)[1], "length", None), FormatError, "ends after"),
    "a hole": (lambda m: described(m).chunks.pop(), FormatError, "do not cover it once"),
    "no chunks": (lambda m: described(m).chunks.clear(), FormatError, "impossible shape, dtype or number of chunks"),
    "a chunk twice": (
        lambda m: described(m).chunks.__setitem__(1, described(m).chunks[0]), FormatError, "do not cover it once"),
    "chunks that overlap": (
        lambda m: (setattr(described(m).chunks[1], "offsets", shape(4, 0)),
                   m.storage_data.update({MetadataIndex(NAME, shape(4, 0)): infos(m)[1]})),
        FormatError, "chunks that overlap"),
    "a chunk outside": (lambda m: setattr(described(m).chunks[1], "offsets", shape(6, 0)), FormatError, "outside it"),
    "a chunk of other dimensions": (
        lambda m: setattr(described(m).chunks[1], "sizes", shape(12)), FormatError, "outside it"),
    "a chunk of negative size": (
        lambda m: setattr(described(m).chunks[1], "sizes", (3, -4)), FormatError, "outside it"),
    "a chunk stored nowhere": (lambda m: m.storage_data.popitem(), FormatError, "stored nowhere"),
    "a huge shape": (
        lambda m: (setattr(described(m), "size", shape(2**40, 4)),
                   setattr(described(m).chunks[1], "sizes", shape(2**40 - 5, 4))),
        UnsafeFileError, "claims"),
    "a shape beyond all numbers": (
        lambda m: setattr(described(m), "size", (2**70, 4)), FormatError, "impossible shape"),
    "a shape of a hundred dimensions": (
        lambda m: setattr(described(m), "size", shape(*[1] * 100)), FormatError, "impossible shape"),
    "a shape that is no shape": (lambda m: setattr(described(m), "size", "8x4"), FormatError, "impossible shape"),
    "no shape": (lambda m: vars(described(m)).pop("size"), FormatError, "impossible shape"),
    "chunks that share their bytes": (
        lambda m: (setattr(infos(m)[1], "offset", 0), setattr(infos(m)[1], "length", infos(m)[0].length)),
        UnsafeFileError, "share bytes"),
    "a path upwards": (lambda m: setattr(infos(m)[0], "relative_path", "../x.distcp"), UnsafeFileError, "outside"),
    "an absolute path": (lambda m: setattr(infos(m)[0], "relative_path", "/etc/x.distcp"), UnsafeFileError, "outside"),
    "a drive": (lambda m: setattr(infos(m)[0], "relative_path", "C:x.distcp"), UnsafeFileError, "outside"),
    "a path in a folder": (lambda m: setattr(infos(m)[0], "relative_path", "a/x.distcp"), UnsafeFileError, "outside"),
    "another kind of file": (
        lambda m: setattr(infos(m)[0], "relative_path", "passwd"), UnsafeFileError, "does not end in .distcp"),
    "a file that is missing": (
        lambda m: setattr(infos(m)[0], "relative_path", "__7_0.distcp"), InputError, "does not exist"),
    "data that were transformed": (
        lambda m: setattr(infos(m)[0], "transform_descriptors", ["zstd"]), UnsupportedError, "compressed or encrypted"),
    "no table of tensors": (lambda m: vars(m).pop("state_dict_metadata"), FormatError, "it has no state_dict_metadata"),
    "no table of storage": (lambda m: setattr(m, "storage_data", None), FormatError, "it has no storage_data"),
    "no tensors": (lambda m: m.state_dict_metadata.clear(), FormatError, "names no tensors (it is empty)"),
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_metadata_that_lie_are_refused_before_a_chunk_is_opened(tmp_path, refused, lie):
    change, kind, words = LIES[lie]
    folder = write(tmp_path / "c", change=change)
    for call in (lambda: open_source(folder), lambda: inspect(folder)):
        refused(call, words, kind=kind)


def test_what_is_no_checkpoint_s_metadata_is_refused(tmp_path, refused):
    folder = write(tmp_path / "c")
    whole = (folder / ".metadata").read_bytes()
    for raw in (
        b"",
        b"\x80\x04.",
        b"not a pickle",
        pickle.dumps([1, 2]),
        pickle.dumps({"a": 1}),
        whole[:-1],
        whole[:99],
    ):
        (folder / ".metadata").write_bytes(raw)
        refused(lambda: open_source(folder), ".metadata", kind=FormatError)


def test_metadata_over_the_limit_are_refused_at_once(tmp_path, refused):
    folder = write(tmp_path / "c")
    (folder / ".metadata").write_bytes(b"\x80\x04" + b"N0" * (9 * 2**20))
    refused(lambda: open_source(folder), "is over 16777216 bytes", kind=UnsafeFileError)


BOMBS = {
    "a tuple that holds another twice, forty deep": b"\x80\x04)" + b"2\x86" * 40 + b"\x85.",
    "a list in itself": b"\x80\x04]\x94h\x00a.",
    "a number of a billion digits": b"\x80\x04\x8b" + struct.pack("<i", 2**30) + b"\x01.",
    "a text of 2^60 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 2**60) + b"x.",
    "bytes of 2^60": b"\x80\x04\x96" + struct.pack("<Q", 2**60) + b"x.",
    "a frame of 2^60 bytes": b"\x80\x04\x95" + struct.pack("<Q", 2**60) + b"N.",
    "the memo's last place": b"\x80\x04Nr" + struct.pack("<I", 2**32 - 1) + b".",
    "marks and nothing else": b"\x80\x04" + b"(" * 10**5 + b".",
    "keys that are tuples": b"\x80\x04}()" + b"2\x86" * 40 + b"Nu.",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_in_the_metadata_is_refused_in_no_time(tmp_path, refused, bomb):
    folder = write(tmp_path / "c")
    (folder / ".metadata").write_bytes(BOMBS[bomb])
    refused(lambda: open_source(folder), ".metadata")


def replaced(tmp_path, first):
    """Write a checkpoint whose first chunk is `first`, declared as it was before."""
    second = saved(torch.zeros(3, 4))

    def change(metadata):
        one, two = infos(metadata)
        one.length, two.offset, two.length = len(first), len(first), len(second)

    return write(tmp_path / "c", raw=first + second, change=change)


def saved(value, **options):
    data = io.BytesIO()
    torch.save(value, data, **options)
    return data.getvalue()


def compressed():
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(torch.zeros(5, 4)))) as archive, zipfile.ZipFile(out, "w", 8) as packed:
        for name in archive.namelist():
            packed.writestr(name, archive.read(name))
    return out.getvalue() + b"\0" * 400


def marked(raw, place, flip):
    """Flip bits of one byte in the entry that the data have in the archive's directory."""
    entry = raw.rindex(b"archive/data/0") - 46 + place
    return raw[:entry] + bytes([raw[entry] ^ flip]) + raw[entry + 1 :]


CHUNKS = {
    "another shape": (lambda: saved(torch.zeros(4, 5)), FormatError, "[4, 5] of float32 and not [5, 4]"),
    "a wider dtype": (lambda: saved(torch.zeros(5, 4, dtype=torch.complex128)), FormatError, "of complex128"),
    "another dtype": (lambda: saved(torch.zeros(5, 4, dtype=torch.int32)), FormatError, "of int32"),
    "marked as a folder": (lambda: marked(saved(torch.zeros(5, 4)), 38, 0x10), UnsafeFileError, "marked as a folder"),
    "marked as empty": (lambda: marked(saved(torch.zeros(5, 4)), 20, 80), UnsafeFileError, "marked as a folder"),
    "a dict": (lambda: saved({"w": torch.zeros(5, 4)}), FormatError, "is no tensor"),
    "one value read many times": (lambda: saved(torch.zeros(1).expand(5, 4)), UnsafeFileError, "of a storage of 4"),
    "noise": (lambda: b"noise " * 200, FormatError, "is no torch file"),
    "a compressed archive": (compressed, InputError, DATA),
    "half a stream": (lambda: saved(torch.zeros(5, 4))[:-200], FormatError, DATA),
    "a plain pickle": (lambda: pickle.dumps(list(range(500)), 2), UnsupportedError, "plain Python pickle"),
}


@pytest.mark.parametrize("chunk", CHUNKS)
def test_a_chunk_that_is_not_what_the_metadata_say_is_refused(tmp_path, refused, chunk):
    make, kind, words = CHUNKS[chunk]
    source = open_source(replaced(tmp_path, make()))
    refused(lambda: source.tensor(NAME), words, kind=kind)


def test_pipes_and_folders_as_parts_are_not_opened(tmp_path, refused):
    for number, make in enumerate((os.mkfifo, os.mkdir)):
        folder = write(tmp_path / f"c{number}")
        (folder / DATA).unlink()
        make(folder / DATA)
        refused(lambda folder=folder: open_source(folder), "not a regular file", kind=UnsafeFileError)
        (folder / ".metadata").unlink()
        make(folder / ".metadata")
        refused(lambda folder=folder: open_source(folder), "not a regular file", kind=UnsafeFileError)


def test_data_cut_anywhere_are_refused(tmp_path):
    folder = write(tmp_path / "c")
    raw = (folder / DATA).read_bytes()
    for length in range(0, len(raw), 37):
        (folder / DATA).write_bytes(raw[:length])
        with pytest.raises(InputError):
            open_source(folder).tensor(NAME)


def settles(call, seconds=2.0):
    """Call and return the answer, None for a refusal; anything else that leaves is a fault."""
    started = time.process_time()
    try:
        return call()
    except InputError:
        return None
    finally:
        assert time.process_time() - started < seconds


def every_tensor(path):
    source = open_source(path)
    return [source.tensor(key) for key in source.header.tensors]


def test_one_flipped_byte_of_the_metadata_is_refused_or_harmless(tmp_path):
    folder = write(tmp_path / "c")
    raw = (folder / ".metadata").read_bytes()
    whole = torch.arange(32.0).reshape(8, 4)
    for place in range(len(raw)):
        for flip in (0x01, 0xFF):
            (folder / ".metadata").write_bytes(raw[:place] + bytes([raw[place] ^ flip]) + raw[place + 1 :])
            found = settles(lambda: every_tensor(folder))
            assert not found or torch.equal(found[0], whole)


def test_one_flipped_byte_of_a_chunk_is_refused_or_changes_one_value(tmp_path):
    """Also where torch, given a member marked as a folder, would hand out memory as it finds it."""
    folder = write(tmp_path / "c")
    raw = (folder / DATA).read_bytes()
    source, whole = open_source(folder), torch.arange(32.0).reshape(8, 4)
    for place in range(0, len(raw), 2):
        (folder / DATA).write_bytes(raw[:place] + bytes([raw[place] ^ 0xFF]) + raw[place + 1 :])
        found = settles(lambda: source.tensor(NAME))
        assert found is None or int((found != whole).sum()) <= 1


# ---- GGUF


def text(word):
    return struct.pack("<Q", len(word.encode())) + word.encode()


def gguf(pairs=(), tensors=(), *, data=None):
    """Build a GGUF file; a pair is (key, type, packed value), a tensor (name, ne, type, offset, bytes)."""
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(pairs))
    for key, kind, value in pairs:
        out += text(key) + struct.pack("<I", kind) + value
    for name, extents, kind, offset, _ in tensors:
        out += text(name) + struct.pack(f"<I{len(extents)}QIQ", len(extents), *extents, kind, offset)
    out += b"\0" * (-len(out) % 32)
    size = max([offset + stored for *_, offset, stored in tensors], default=0)
    return out + (b"\x3c" * size if data is None else data)


ARCHITECTURE = ("general.architecture", 8, text("llama"))
HEADS = ("llama.attention.head_count", 4, struct.pack("<I", 2))
Q = ("blk.0.attn_q.weight", (32, 4), 8, 0, 136)  # Q8_0: 4 rows of one block of 34 bytes
UP = ("blk.0.ffn_up.weight", (8, 2), 0, 160, 64)

GGUF_LIES = {
    "49 bytes that claim 2^60 pairs": (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60) + b"\0" * 25, "claims"),
    "2^60 tensors": (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0) + b"\0" * 99, "claims"),
    "an offset past the end": (gguf([ARCHITECTURE], [("t", (32, 4), 0, 2**40, 0)], data=b"\0" * 512), "truncated"),
    "rows of 2^63": (gguf([ARCHITECTURE], [("t", (2**63, 1), 0, 0, 0)], data=b"\0" * 64), "impossible shape"),
    "rows of 2^60 beside none": (gguf([ARCHITECTURE], [("t", (2**60, 0), 0, 0, 0)]), "impossible shape"),
    "a product past 2^64": (gguf([ARCHITECTURE], [("t", (2**40, 2**40), 0, 0, 0)], data=b"\0" * 64), "truncated"),
    "five dimensions": (gguf([ARCHITECTURE], [("t", (1,) * 5, 0, 0, 4)]), "5 dimensions"),
    "an alignment of five thousand digits": (
        gguf([("general.alignment", 8, text("9" * 5000))], [UP], data=b"\0" * 400), "not a power of two"),
    "a name of another file's file": (gguf([("split.count", 4, struct.pack("<I", 3))], [UP]), "not named so"),
}  # fmt: skip


@pytest.mark.parametrize("lie", GGUF_LIES)
def test_gguf_that_lies_is_refused_on_either_side(tmp_path, refused, base, pairs, lie):
    raw, words = GGUF_LIES[lie]
    (tmp_path / "m.gguf").write_bytes(raw)
    for call in (lambda: pairs(tmp_path / "m.gguf", base), lambda: pairs(base, tmp_path / "m.gguf")):
        refused(call, "m.gguf", words, kind=FormatError)


@pytest.mark.parametrize("digits", ["9" * 5000, "1e3", "-2", "", "²", "0x10"])
def test_counts_that_are_no_numbers_are_refused(tmp_path, refused, pairs, digits):
    pytest.importorskip("gguf")
    raw = gguf([ARCHITECTURE, ("llama.attention.head_count", 8, text(digits))], [Q, UP])
    (tmp_path / "m.gguf").write_bytes(raw)
    tuned = {"model.layers.0.self_attn.q_proj.weight": torch.zeros(4, 32)}
    refused(lambda: pairs(tmp_path / "m.gguf", tuned), "number of attention heads", kind=UnsupportedError)


def test_a_split_model_leads_nowhere_else(tmp_path, refused):
    """The files of a split model are named after the first; what is in it has no say."""
    split = [("split.count", 2, struct.pack("<H", 2)), ("split.no", 2, struct.pack("<H", 0))]
    (tmp_path / "m-00001-of-00002.gguf").write_bytes(gguf([ARCHITECTURE, *split], [UP]))
    os.mkfifo(tmp_path / "m-00002-of-00002.gguf")
    refused(lambda: open_source(tmp_path / "m-00001-of-00002.gguf"), "not a regular file", kind=UnsafeFileError)


def test_blocks_of_any_bytes_are_numbers_or_named_as_none(tmp_path, base):
    pytest.importorskip("gguf")
    for fill in (0x00, 0x7F, 0x80, 0xFF):
        raw = gguf([ARCHITECTURE, HEADS], [Q], data=bytes([fill]) * 136)
        (tmp_path / "m.gguf").write_bytes(raw)
        found = open_source(tmp_path / "m.gguf").tensor(Q[0])
        assert found.shape == (4, 32)


def test_the_package_s_own_reader_never_sees_a_file(tmp_path, monkeypatch):
    package = pytest.importorskip("gguf")
    monkeypatch.setattr(package.GGUFReader, "__init__", lambda *given: pytest.fail("gguf's reader was called"))
    (tmp_path / "m.gguf").write_bytes(gguf([ARCHITECTURE, HEADS], [Q, UP]))
    source = open_source(tmp_path / "m.gguf")
    assert [source.tensor(key).shape for key in source.header.tensors] == [(4, 32), (2, 8)]


def test_gguf_cut_after_it_was_opened_is_refused(tmp_path, refused):
    pytest.importorskip("gguf")
    path = Path(tmp_path / "m.gguf")
    path.write_bytes(gguf([ARCHITECTURE, HEADS], [Q, UP]))
    source = open_source(path)
    path.write_bytes(path.read_bytes()[:-150])
    for key in source.header.tensors:
        refused(lambda key=key: source.tensor(key), "is truncated", kind=FormatError)


def test_one_flipped_byte_of_a_gguf_header_is_refused_or_harmless(tmp_path):
    pytest.importorskip("gguf")
    raw = gguf([ARCHITECTURE, HEADS], [Q, UP])
    path = tmp_path / "m.gguf"
    for place in range(len(raw) - 224):
        for flip in (0x01, 0xFF):
            path.write_bytes(raw[:place] + bytes([raw[place] ^ flip]) + raw[place + 1 :])
            found = settles(lambda: every_tensor(path))
            assert found is None or sum(value.numel() for value in found) <= 2 * len(raw)
