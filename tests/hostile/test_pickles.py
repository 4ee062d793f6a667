"""Torch pickles that would run code, claim memory or hide what they hold. None is ever loaded."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from spectra.errors import FormatError, InputError, SpectraError, UnsafeFileError, UnsupportedError
from spectra.loaders import source
from spectra.loaders.formats import read_file, read_weights
from spectra.loaders.source import open_source


class Evil:
    """Unpickled, it makes the file named in SENTINEL."""

    def __reduce__(self):
        return os.system, (f"touch {os.environ['SENTINEL']}",)


class EvilExec:
    def __reduce__(self):
        return exec, (f"open({os.environ['SENTINEL']!r}, 'w')",)


@pytest.fixture
def sentinel(tmp_path, monkeypatch):
    """The file a hostile pickle would make; and torch.load must not even be tried."""
    path = tmp_path / "sentinel"
    monkeypatch.setenv("SENTINEL", str(path))

    def never(*given, **options):
        raise AssertionError("torch.load was called on a hostile file")

    monkeypatch.setattr(source.torch, "load", never)
    yield path
    assert not path.exists(), "code in the file has run"


def torch_file(content, **options):
    out = io.BytesIO()
    torch.save(content, out, **options)
    return out.getvalue()


def zip_of(members, compression=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def opcodes(body):
    """A torch zip file whose data.pkl is this body."""
    return zip_of(
        {"archive/data.pkl": b"\x80\x02" + body + b".", "archive/data/0": b"\0" * 64, "archive/version": b"3\n"}
    )


def command():
    return f"touch {os.environ['SENTINEL']}".encode()


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def tar_of(members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


def in_a_dict(evil):
    return {"w": torch.ones(2, 2), "x": evil}


def after_the_tensors():
    """The format before 1.6 ends in a list of storage keys: a fifth pickle, where nobody looks."""
    benign = torch_file({"w": torch.ones(2, 2)}, _use_new_zipfile_serialization=False)
    at = benign.rindex(b"\x80\x02]")
    return benign[:at] + pickle.dumps([Evil()], 2) + benign[at:]


HOSTILE = {
    "a reduce in a zip file": (lambda: torch_file(in_a_dict(Evil())), "posix.system"),
    "a reduce, protocol 4": (lambda: torch_file(in_a_dict(Evil()), pickle_protocol=4), "posix.system"),
    "exec": (lambda: torch_file(in_a_dict(EvilExec())), "exec"),
    "a reduce in the format before 1.6": (
        lambda: torch_file(in_a_dict(Evil()), _use_new_zipfile_serialization=False),
        "posix.system",
    ),
    "the format before 1.6, protocol 4": (
        lambda: torch_file(in_a_dict(Evil()), _use_new_zipfile_serialization=False, pickle_protocol=4),
        "",
    ),
    "the fifth pickle of the format before 1.6": (after_the_tensors, "posix.system"),
    "a plain pickle, protocol 2": (lambda: pickle.dumps(Evil(), 2), "posix.system"),
    "a plain pickle, protocol 4": (lambda: pickle.dumps(Evil(), 4), "posix.system"),
    "a plain pickle, protocol 5": (lambda: pickle.dumps([torch.Size([2]), Evil()], 5), "posix.system"),
    "a stack global": (
        lambda: opcodes(text(b"os") + text(b"system") + b"\x93" + text(command()) + b"\x85R"),
        "os.system",
    ),
    "a dotted stack global under a safe module": (
        lambda: opcodes(text(b"torch") + text(b"serialization.os.system") + b"\x93" + text(command()) + b"\x85R"),
        "torch.serialization.os.system",
    ),
    "a global that ends as a storage does": (
        lambda: opcodes(b"ctorch\nserialization.os.systemStorage\n" + text(command()) + b"\x85R"),
        "systemStorage",
    ),
    "an instance": (lambda: opcodes(b"(" + text(command()) + b"ios\nsystem\n"), "os.system"),
    "an object": (lambda: opcodes(b"(cos\nsystem\n" + text(command()) + b"o"), "os.system"),
    "a name taken from the memo": (
        lambda: opcodes(text(b"os") + b"q\x00" + text(b"system") + b"q\x01000h\x00h\x01\x93" + text(command()) + b"\x85R"),
        "",
    ),
    "an import that is never called": (lambda: opcodes(b"cos\nsystem\n0}"), "os.system"),
    "a copyreg extension": (lambda: opcodes(b"\x82\x01"), "copyreg.extension-1"),
    "getattr of builtins": (lambda: opcodes(b"c__builtin__\ngetattr\n0}"), "__builtin__.getattr"),
    "a global hidden behind damage": (lambda: opcodes(b"cos\nsystem\n" + text(command()) + b"\x85RRRR"), "os.system"),
    "torch's own loader as a gadget": (lambda: opcodes(b"ctorch\nload\n" + text(b"x") + b"\x85R"), "torch.load"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "fragment"), HOSTILE.values(), ids=HOSTILE)
def test_a_pickle_that_would_run_code_is_refused_by_the_name_of_the_code(tmp_path, sentinel, refused, make, fragment):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(make())
    kind = UnsafeFileError if fragment else InputError
    refused(lambda: open_source(path), "pytorch_model.bin", fragment, kind=kind)


CLOAKED = {
    "a zip file in a zip file": (lambda: zip_of({"inner.bin": torch_file(Evil())}), "without torch's data.pkl"),
    "the tar of old torch": (lambda: tar_of({"pickle": pickle.dumps(Evil(), 2), "sys_info": b"", "tensors": b"", "storages": b""}), "tar archive"),
    "a pickle in text": (lambda: pickle.dumps(Evil(), 0), "no format that is read here"),
    "two pickles in one archive": (lambda: zip_of({"a/data.pkl": b"\x80\x02}.", "b/data.pkl": pickle.dumps(Evil(), 2)}), "data.pkl"),
    "two pickles a capital apart": (lambda: zip_of({"a/data.pkl": b"\x80\x02}.", "a/DATA.PKL": pickle.dumps(Evil(), 2)}), "two of its members have one name"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "fragment"), CLOAKED.values(), ids=CLOAKED)
def test_a_pickle_in_disguise_is_refused_unopened(tmp_path, sentinel, refused, make, fragment):
    path = tmp_path / "pytorch_model.bin"
    path.write_bytes(make())
    refused(lambda: open_source(path), "pytorch_model.bin", fragment)


def test_a_hostile_pickle_is_refused_wherever_it_stands(tmp_path, sentinel, refused, base, craft, pairs):
    hostile = torch_file(in_a_dict(Evil()))
    adapter, tuned, sharded = tmp_path / "adapter", tmp_path / "tuned", tmp_path / "sharded"
    for folder in (adapter, tuned, sharded):
        folder.mkdir()
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4, "lora_alpha": 8}')
    (adapter / "adapter_model.bin").write_bytes(hostile)
    (tuned / "pytorch_model.bin").write_bytes(hostile)
    index = {"weight_map": {"w": "pytorch_model-00001-of-00001.bin"}}
    (sharded / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (sharded / "pytorch_model-00001-of-00001.bin").write_bytes(hostile)
    for given in (adapter, adapter / "adapter_model.bin", tuned, tuned / "pytorch_model.bin", sharded):
        refused(lambda given=given: pairs(base, given), "posix.system", kind=UnsafeFileError)
    refused(lambda: pairs(tuned, base), "posix.system", kind=UnsafeFileError)


def test_a_hostile_pickle_under_a_safetensors_name_is_refused(tmp_path, sentinel, refused):
    (tmp_path / "model.safetensors").write_bytes(torch_file(in_a_dict(Evil())))
    refused(lambda: open_source(tmp_path), "posix.system", kind=UnsafeFileError)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin", "weights.bin", "training_args.bin"])
def test_safetensors_beside_a_pickle_always_win(tmp_path, sentinel, craft, name):
    (tmp_path / name).write_bytes(torch_file(in_a_dict(Evil())))
    for safe in ("model.safetensors", "odd_name.safetensors"):
        save_file({"w": torch.eye(2)}, tmp_path / safe)
        if safe == "odd_name.safetensors" and name == "pytorch_model.bin":
            continue  # a known name before an unknown one
        assert torch.equal(open_source(tmp_path).tensor("w"), torch.eye(2))
        (tmp_path / safe).unlink()


BENIGN = {
    "zip": {},
    "zip, protocol 3": {"pickle_protocol": 3},
    "before 1.6": {"_use_new_zipfile_serialization": False},
    "before 1.6, protocol 3": {"_use_new_zipfile_serialization": False, "pickle_protocol": 3},
}


@pytest.mark.parametrize("options", BENIGN.values(), ids=BENIGN)
def test_every_benign_torch_file_is_read_to_the_bit(tmp_path, options):
    tensors = {
        "float": torch.randn(3, 4),
        "half": torch.randn(5).half(),
        "brain": torch.randn(7, 2).bfloat16(),
        "whole": torch.arange(3),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(1.5),
    }
    tensors["tied"] = tensors["float"]
    tensors["turned"] = tensors["float"].T
    tensors["part"] = tensors["float"][1:]
    for content in (tensors, {"state_dict": tensors, "epoch": 3}):
        torch.save(content, tmp_path / "w.bin", **options)
        opened = open_source(tmp_path / "w.bin")
        assert list(opened.header.tensors) == list(tensors)
        assert all(torch.equal(opened.tensor(key), tensor) for key, tensor in tensors.items())
        assert opened.header.tensors["tied"].alias == "float"


NOT_TENSORS = {
    "protocol 4": ({"w": torch.ones(2)}, {"pickle_protocol": 4}, "pickle protocol 4"),
    "a sparse tensor": ({"w": torch.eye(3).to_sparse()}, {}, "'w' is stored as a sparse_tensor"),
    "a whole model": (torch.nn.Linear(2, 2), {}, "torch.nn.modules.linear.Linear"),
    "no tensors at its top": ({"epoch": 3, "net": {"w": torch.ones(2)}}, {}, "no named tensors (epoch, net)"),
    "nothing": ({}, {}, "it is empty"),
    "a number": (3, {}, "it is empty"),
}


@pytest.mark.parametrize(("content", "options", "fragment"), NOT_TENSORS.values(), ids=NOT_TENSORS)
def test_a_torch_file_that_holds_no_plain_state_dict_says_why(tmp_path, refused, content, options, fragment):
    torch.save(content, tmp_path / "w.bin", **options)
    refused(lambda: read_file(tmp_path / "w.bin"), "w.bin", fragment)


def test_torchscript_is_refused_by_name(tmp_path, refused):
    members = {"m/data.pkl": b"\x80\x02}.", "m/constants.pkl": b"\x80\x02).", "m/code/m.py": b""}
    (tmp_path / "w.bin").write_bytes(zip_of(members, zipfile.ZIP_DEFLATED))
    refused(lambda: read_file(tmp_path / "w.bin"), "TorchScript", kind=UnsupportedError)


def claim(shape, stride, *, offset=0, key=b"0", elements=16, data=64, storage=b"ctorch\nFloatStorage\n"):
    """A torch file whose tensor `w` claims what it likes about a storage of `data` bytes."""

    def number(value):
        raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
        return (b"\x8a" + bytes([len(raw)]) if len(raw) < 256 else b"\x8b" + struct.pack("<i", len(raw))) + raw

    def numbers(values):
        return b"(" + b"".join(map(number, values)) + b"t"

    pers = b"(" + text(b"storage") + storage + text(key) + text(b"cpu") + number(elements) + b"tQ"
    built = b"ctorch._utils\n_rebuild_tensor_v2\n(" + pers + number(offset) + numbers(shape) + numbers(stride)
    body = b"\x80\x02}" + text(b"w") + built + b"\x89ccollections\nOrderedDict\n)RtRs."
    return zip_of({"a/data.pkl": body, "a/data/0": b"\0" * data, "a/version": b"3\n"})


CLAIMS = {
    "14.4 GB on four bytes, stride zero": (claim((60_000, 60_000), (0, 0), elements=1, data=4), "claims 14400000000 bytes"),
    "past the end of its storage": (claim((4, 4), (5, 1)), "of a storage of 64"),
    "an offset past the end": (claim((4,), (1,), offset=14), "of a storage of 64"),
    "a storage that is not there": (claim((4, 4), (4, 1), key=b"7"), "its data is missing"),
    "a negative extent": (claim((-4, 4), (4, 1)), "impossible shape"),
    "a negative stride": (claim((4, 4), (-4, 1)), "impossible shape"),
    "a negative offset": (claim((4,), (1,), offset=-2), "impossible shape"),
    "fewer strides than extents": (claim((4, 4), (1,)), "impossible shape"),
    "extents of ten thousand digits": (claim((10**9_999, 10**9_999), (0, 0)), "impossible shape"),
    "a thousand dimensions": (claim((1,) * 1000, (1,) * 1000), "impossible shape"),
    "a storage of unknown type": (claim((4,), (1,), storage=b"ctorch\nOddStorage\n"), "torch.OddStorage"),
    "a storage that is no type": (claim((4,), (1,), storage=text(b"x")), "cannot be followed"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "fragment"), CLAIMS.values(), ids=CLAIMS)
def test_a_tensor_that_claims_what_its_storage_does_not_hold_is_refused(tmp_path, refused, content, fragment):
    (tmp_path / "w.bin").write_bytes(content)
    refused(lambda: read_weights(tmp_path / "w.bin"), "w.bin", fragment)


def test_the_crafted_file_is_read_when_its_claims_are_true(tmp_path):
    (tmp_path / "w.bin").write_bytes(claim((4, 4), (4, 1)))
    assert torch.equal(open_source(tmp_path / "w.bin").tensor("w"), torch.zeros(4, 4))


def doubling(depth):
    """A tuple that holds another twice, `depth` deep: 2^depth leaves in a few hundred bytes."""
    return b")" + b"2\x86" * depth


BOMBS = {
    "a shape that doubles 60 times": b"}" + text(b"w") + b"ctorch._utils\n_rebuild_tensor_v2\n((" + text(b"storage") + b"ctorch\nFloatStorage\n" + text(b"0") + text(b"cpu") + b"K\x10tQK\x00" + doubling(60) + b")tRs",
    "a key that doubles 60 times": b"}" + doubling(60) + b"K\x01s",
    "an OrderedDict key that doubles": b"ccollections\nOrderedDict\n](" + doubling(60) + b"K\x01\x86e\x85R",
    "a storage key that doubles": b"(" + text(b"storage") + b"ctorch\nFloatStorage\n" + doubling(60) + text(b"cpu") + b"K\x10tQ",
    "a module name that doubles": doubling(60) + text(b"x") + b"\x93",
    "a list that holds itself as a rebuild": b"]q\x00(ctorch._tensor\n_rebuild_from_type_v2\nK\x00h\x00eh\x00" + b"ctorch._tensor\n_rebuild_from_type_v2\nh\x00R",
    "nested 200 000 deep": b"(" * 200_000 + b"t" * 200_000,
    "a deep stack marked often": b"N" * 200_000 + b"(t" * 200_000,
    "a text that claims four gigabytes": b"X\xff\xff\xff\xff",
    "a text that claims 2^63 bytes": b"\x8d" + b"\xff" * 7 + b"\x7f",
    "a memo that was never filled": b"h\x05",
    "an empty stack": b"0000",
    "an odd escape in a text": b"S'\\o'\n0}",
    "no end": b"}" * 10,
}  # fmt: skip


@pytest.mark.parametrize("body", BOMBS.values(), ids=BOMBS)
def test_a_pickle_bomb_is_refused_in_no_time(tmp_path, refused, body):
    (tmp_path / "w.bin").write_bytes(opcodes(body))
    refused(lambda: read_weights(tmp_path / "w.bin"), "w.bin")


def test_bombs_are_refused_within_a_gigabyte_and_without_torch(tmp_path):
    deflated = zip_of({"a/data.pkl": b"\x80\x02}.", "a/data/0": b"\0" * 268_435_456}, zipfile.ZIP_DEFLATED)
    files = {"deflated.bin": deflated, "stride.bin": claim((60_000, 60_000), (0, 0), elements=1, data=4)}
    files["endless.bin"] = (
        b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." + b"\x80\x02X\xff\xff\xff\xff" + b"x" * 70_000_000
    )
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    script = (
        "import sys, pathlib, resource; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
        "from spectra.errors import UnsafeFileError; from spectra.loaders.formats import read_weights\n"
        "for name in sys.argv[1:]:\n"
        "    try: read_weights(pathlib.Path(name))\n"
        "    except UnsafeFileError as fault: print(fault)\n"
        "assert 'torch' not in sys.modules"
    )
    words = [sys.executable, "-c", script, *(tmp_path / name for name in files)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=True)
    compressed, stride, endless = done.stdout.splitlines()
    assert "compressed members (a/data.pkl, a/data/0)" in compressed
    assert "claims 14400000000 bytes" in stride
    assert "over 16777216 bytes" in endless


def test_a_torch_file_cut_anywhere_is_refused(tmp_path, refused):
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        whole = torch_file({"w": torch.ones(4, 4)}, **options)
        for cut in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 1):
            (tmp_path / "w.bin").write_bytes(whole[:cut])
            refused(lambda: read_weights(tmp_path / "w.bin"), "w.bin")


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "before 1.6"])
@pytest.mark.parametrize("flip", [0x01, 0xFF], ids=hex)
def test_one_flipped_byte_is_refused_or_changes_nothing_outside_the_data(tmp_path, options, flip):
    tensors = {"first": torch.arange(1.0, 7).reshape(2, 3), "second": torch.arange(1, 9).half().reshape(4, 2)}
    whole = torch_file(tensors, **options)
    # The format before 1.6 has no checksum: a flip in a stride is a stride.
    checked = not options
    data = {whole.index(tensor.numpy().tobytes()) + at for tensor in tensors.values() for at in range(tensor.nbytes)}
    path, wrong, read = tmp_path / "w.bin", [], 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= flip
        path.write_bytes(damaged)
        try:
            opened = open_source(path)
            found = [opened.tensor(key) for key in opened.header.tensors]
        except SpectraError:
            continue
        read += 1
        if (
            checked
            and position not in data
            and not (len(found) == 2 and all(map(torch.equal, found, tensors.values())))
        ):
            wrong.append((position, whole[position - 8 : position + 8], found))
    assert not wrong
    assert read >= len(data)


def test_torch_s_own_refusal_is_passed_on_without_its_unsafe_advice(tmp_path, monkeypatch, refused):
    def refuses(*given, **options):
        raise pickle.UnpicklingError(
            "Weights only load failed. Re-run with weights_only=False\nWeightsUnpickler error: \n\nbad \x1b[1mthing\x1b[0m\n"
        )

    torch.save({"w": torch.ones(2)}, tmp_path / "w.bin")
    opened = open_source(tmp_path / "w.bin")
    monkeypatch.setattr(source.torch, "load", refuses)
    message = refused(lambda: opened.tensor("w"), "bad \\x1b[1mthing", kind=UnsafeFileError)
    assert "weights_only" not in message


def test_what_torch_reads_must_be_what_was_checked(tmp_path, monkeypatch, refused):
    torch.save({"w": torch.ones(2), "v": torch.ones(3)}, tmp_path / "w.bin")
    opened = open_source(tmp_path / "w.bin")
    monkeypatch.setattr(source.torch, "load", lambda *given, **options: {"w": torch.ones(5)})
    refused(lambda: opened.tensor("w"), "declared [2] of float32 and reads as [5]", kind=FormatError)
    refused(lambda: opened.tensor("v"), "reads as nothing", kind=FormatError)
