"""Safetensors files that lie: each is refused by name, in milliseconds, before a tensor is touched."""

import json
import resource
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save

from spectra.errors import FormatError, InputError, SpectraError, UnsafeFileError
from spectra.loaders.formats import read_file, read_weights
from spectra.loaders.source import open_source

F32 = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
DATA = b"\0" * 16


def entry(**changes):
    return json.dumps({"w": {**F32, **changes}})


def second(**changes):
    return json.dumps({"w": F32, "v": {**F32, **changes}})


# name: (header, data, length or None, fragment of the message)
LIES = {
    "header length zero": ("", b"{}" + DATA, 0, "must start with '{'"),
    "header length past the end": (entry(), DATA, 10_000, "promises a header of 10000 bytes"),
    "header length 2^63": (entry(), DATA, 2**63, "promises a header"),
    "header length 2^64 - 1": (entry(), DATA, 2**64 - 1, "promises a header"),
    "no JSON": ("{nonsense", DATA, None, "not valid JSON"),
    "JSON cut short": (entry()[:-3], DATA, None, "not valid JSON"),
    "a list": ("[1, 2]", DATA, None, "must start with '{'"),
    "a space before the brace": (" " + entry(), DATA, None, "must start with '{'"),
    "a byte order mark": ("\ufeff" + entry(), DATA, None, "must start with '{'"),
    "no UTF-8": (b'{"\xff\xfe": 1}', DATA, None, "not valid JSON"),
    "a name twice": (f'{{"w": {json.dumps(F32)}, "w": {json.dumps(F32)}}}', DATA, None, "'w' stands twice"),
    "a field twice": (
        '{"w": {"dtype": "F32", "dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}',
        DATA,
        None,
        "'dtype' stands twice",
    ),
    "metadata twice": ('{"__metadata__": {"a": "1", "a": "2"}}', b"", None, "'a' stands twice"),
    "an entry that is a number": ('{"w": 3}', DATA, None, "tensor 'w' lacks dtype"),
    "no offsets": ('{"w": {"dtype": "F32", "shape": [2, 2]}}', DATA, None, "tensor 'w' lacks dtype"),
    "metadata that is a list": ('{"__metadata__": [1]}', b"", None, "__metadata__"),
    "metadata with numbers": ('{"__metadata__": {"a": 1}}', b"", None, "__metadata__"),
    "an unknown dtype": (entry(dtype="F99"), DATA, None, "unknown dtype 'F99'"),
    "a dtype in lower case": (entry(dtype="f32"), DATA, None, "unknown dtype 'f32'"),
    "a dtype that is a list": (entry(dtype=["F32"]), DATA, None, "unknown dtype"),
    "a dtype nested 900 deep": ('{{"w": {{"dtype": {}1{}, "shape": [2, 2], "data_offsets": [0, 16]}}}}'.format("[" * 900, "]" * 900), DATA, None, "unknown dtype"),
    "a negative extent": (entry(shape=[-2, -2]), DATA, None, "impossible shape"),
    "a fraction as extent": (entry(shape=[2.0, 2]), DATA, None, "impossible shape"),
    "true as extent": (entry(shape=[True, 4]), DATA, None, "impossible shape"),
    "a text as shape": (entry(shape="2x2"), DATA, None, "impossible shape"),
    "an infinite extent": ('{"w": {"dtype": "F32", "shape": [1e999], "data_offsets": [0, 16]}}', DATA, None, "impossible shape"),
    "an extent that is NaN": ('{"w": {"dtype": "F32", "shape": [NaN], "data_offsets": [0, 16]}}', DATA, None, "NaN"),
    "an extent of 5000 digits": ('{"w": {"dtype": "F32", "shape": [1%s], "data_offsets": [0, 16]}}' % ("0" * 5000), DATA, None, "a number of 5001 digits"),
    "a shape of 2^64 entries": (entry(shape=[2**32, 2**32]), DATA, None, "its range holds 16"),
    "a shape that overflows 64 bits to fit": (entry(shape=[2**61, 2**61, 4]), DATA, None, "its range holds 16"),
    "ten thousand dimensions": (entry(shape=[1] * 10_000), b"\0" * 4, None, "impossible shape"),
    "a shape too large for its range": (entry(shape=[3, 2]), DATA, None, "takes 24 bytes, its range holds 16"),
    "a shape too small for its range": (entry(shape=[1, 2]), DATA, None, "takes 8 bytes, its range holds 16"),
    "F64 on the bytes of F32": (entry(dtype="F64"), DATA, None, "takes 32 bytes, its range holds 16"),
    "offsets reversed": (entry(data_offsets=[16, 0]), DATA, None, "its range holds -16"),
    "offsets negative": (entry(data_offsets=[-16, 0]), DATA, None, "impossible data_offsets"),
    "one offset": (entry(data_offsets=[16]), DATA, None, "impossible data_offsets"),
    "offsets of 2^63": (entry(data_offsets=[2**63 - 16, 2**63]), DATA, None, "impossible data_offsets"),
    "two tensors on one range": (second(), DATA, None, "'w' overlaps the tensor before it"),
    "two tensors that overlap": (second(data_offsets=[8, 24]), DATA + DATA[:8], None, "'v' overlaps the tensor before it"),
    "a hole before the first": (entry(data_offsets=[4, 20]), b"\0" * 20, None, "'w' leaves a hole before it"),
    "a hole between two": (second(data_offsets=[20, 36]), b"\0" * 36, None, "'v' leaves a hole before it"),
    "bytes after the last": (entry(), DATA + b"\0\0\0", None, "3 bytes after its last tensor"),
    "data cut short": (entry(), DATA[:-1], None, "16 bytes of tensors are promised, 15 are there"),
    "no data at all": (entry(), b"", None, "16 bytes of tensors are promised, 0 are there"),
    "half a character in a name": (f'{{"\\ud800": {json.dumps(F32)}}}', DATA, None, "half a character"),
    "nesting 100 000 deep": ('{{"w": {}{}}}'.format("[" * 100_000, "]" * 100_000), DATA, None, "nested too deeply"),
}  # fmt: skip


@pytest.mark.parametrize(("header", "data", "length", "fragment"), LIES.values(), ids=LIES)
def test_a_file_that_lies_is_refused_and_named(tmp_path, craft, refused, header, data, length, fragment):
    path = tmp_path / "model.safetensors"
    path.write_bytes(craft.safetensors(header, data, length))
    refused(lambda: read_weights(path), "model.safetensors", fragment, kind=FormatError)


NOT_WEIGHTS = {
    "empty": (b"", "it is empty"),
    "one byte": (b"\x10", "is 1 byte: too short"),
    "seven bytes": (b"\x10\0\0\0\0\0\0", "is 7 bytes: too short"),
    "a Git LFS pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "git lfs pull"),
    "a web page": (b"\n<!DOCTYPE html><title>Login</title>", "web page"),
    "a NumPy array": (b"\x93NUMPY\x01\0v\0{'descr': '|O'}", ".npy"),
    "a tar archive": (b"sys_info".ljust(257, b"\0") + b"ustar\x0000" + b"\0" * 600, "tar archive"),
    "plain text": (b"hello, these are not weights", "promises a header"),
}


@pytest.mark.parametrize(("content", "fragment"), NOT_WEIGHTS.values(), ids=NOT_WEIGHTS)
def test_a_file_that_is_something_else_says_what_it_is(tmp_path, refused, content, fragment):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    refused(lambda: read_weights(path), "model.safetensors", fragment, kind=FormatError)


@pytest.mark.parametrize("length", [640, 896, 1152, 1408, 15392], ids=hex)
def test_a_header_length_that_looks_like_a_pickle_or_a_web_page_is_read(tmp_path, craft, length):
    # 640 is 80 02 00 ... in the file, as a pickle of protocol 2 begins; 15392 is ` <`.
    path = tmp_path / "model.safetensors"
    path.write_bytes(craft.safetensors(entry().ljust(length), DATA))
    assert read_weights(path).container == "safetensors"
    assert torch.equal(open_source(path).tensor("w"), torch.zeros(2, 2))


ACCEPTED = {
    "extra fields": {"w": {**F32, "comment": "hi"}},
    "an empty name": {"": F32},
    "a name of a megabyte": {"n" * 2**20: F32},
    "an empty matrix beside": {"e": {"dtype": "F32", "shape": [0, 7], "data_offsets": [0, 0]}, "w": F32},
    "a scalar beside": {"s": {"dtype": "F32", "shape": [], "data_offsets": [16, 20]}, "w": F32},
}


@pytest.mark.parametrize("header", ACCEPTED.values(), ids=ACCEPTED)
def test_what_the_format_allows_is_read(tmp_path, craft, header):
    path = tmp_path / "model.safetensors"
    path.write_bytes(craft.safetensors(header, b"\0" * max(item["data_offsets"][1] for item in header.values())))
    source = open_source(path)
    assert [tuple(source.tensor(key).shape) for key in header] == [tuple(item["shape"]) for item in header.values()]


def test_a_file_cut_anywhere_is_refused(tmp_path, refused):
    whole = save({"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(4).half()})
    header = 8 + int.from_bytes(whole[:8], "little")
    path = tmp_path / "model.safetensors"
    for cut in (0, 1, 7, 8, 9, header - 1, header, header + 1, len(whole) - 1):
        path.write_bytes(whole[:cut])
        refused(lambda: read_weights(path), "model.safetensors", kind=FormatError)
    path.write_bytes(whole[:-1])
    refused(lambda: read_weights(path), "32 bytes of tensors are promised, 31 are there")


def test_a_header_bomb_is_refused_before_it_is_parsed(tmp_path, craft):
    """58.9 MB of header would take 3 s and 811 MB in the reader; refused under 150 MB and without torch."""
    one = '"t%07d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    path = tmp_path / "model.safetensors"
    path.write_bytes(craft.safetensors("{" + ",".join(one % number for number in range(1_000_000)) + "}"))
    script = (
        "import sys, re, pathlib; from spectra.errors import FormatError\n"
        "from spectra.loaders.formats import read_weights\n"
        "try: read_weights(pathlib.Path(sys.argv[1]))\n"
        "except FormatError as fault: print(fault)\n"
        "print('torch' in sys.modules, re.search(r'VmHWM:\\s+(\\d+)', pathlib.Path('/proc/self/status').read_text())[1])"
    )
    done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, timeout=60, check=True)
    message, rest = done.stdout.splitlines()
    assert "over the limit" in message
    torch_loaded, kilobytes = rest.split()
    assert torch_loaded == "False"
    assert int(kilobytes) < 150_000


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF], ids=hex)
def test_one_flipped_byte_is_refused_or_changes_nothing_outside_the_data(tmp_path, flip):
    tensors = {"first": torch.arange(6.0).reshape(2, 3), "second": torch.arange(8).half().reshape(4, 2)}
    whole = save(tensors, {"format": "pt"})
    start = 8 + int.from_bytes(whole[:8], "little")
    path, read = tmp_path / "model.safetensors", 0
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= flip
        path.write_bytes(damaged)
        try:
            source = open_source(path)
            found = [source.tensor(key) for key in source.header.tensors]
        except SpectraError:
            assert position < start, "a flip in the data cannot be seen"
            continue
        read += 1
        if position < start:
            assert all(map(torch.equal, sorted(found, key=len), sorted(tensors.values(), key=len)))
    assert read >= len(whole) - start


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.safetensors.index.json"])
def test_a_folder_in_the_place_of_a_file_is_refused(tmp_path, refused, name):
    (tmp_path / name).mkdir()
    refused(lambda: read_weights(tmp_path), name, "not a regular file", kind=UnsafeFileError)


def test_a_name_too_long_for_the_system_is_a_refusal(tmp_path, refused):
    refused(lambda: read_weights(tmp_path / ("x" * 300)), "does not exist", kind=InputError)


def test_memory_is_not_taken_on_a_header_s_word(tmp_path, craft, refused):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    path = tmp_path / "model.safetensors"
    path.write_bytes(craft.safetensors(entry(shape=[60_000, 60_000], data_offsets=[0, 4 * 60_000**2]), DATA))
    refused(lambda: read_file(path), "truncated", kind=FormatError)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
