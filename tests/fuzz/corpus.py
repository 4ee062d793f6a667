"""The seeds of the fuzzer, small and made here: sound files of every kind, and those of FAULTS that are not.

python tests/fuzz/corpus.py FOLDER      # writes one file a seed and words.dict, the words of the formats
"""

import io
import json
import pickle
import struct
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import torch
from readers import READERS
from safetensors.torch import save
from torch.distributed import checkpoint

TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.arange(8).half().reshape(4, 2)}
F32 = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
LORA = {
    "q.lora_A.weight": {"dtype": "F32", "shape": [1, 7], "data_offsets": [0, 28]},
    "q.lora_B.weight": {"dtype": "F32", "shape": [8, 1], "data_offsets": [28, 60]},
}
WORDS = (
    "F32", "BF16", "F8_E4M3", "dtype", "shape", "data_offsets", "__metadata__", "weight_map", "metadata", "../", "C:", "\\\\",
    "peft_type", "LORA", "DORA", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "target_modules",
    "init_lora_weights", "pissa", "(a+)+$", "(a|aa)", "{1,30}", "(?=", "\\1", ".*", "\\ud800", "1e999", "NaN", "-1", "null",
    "data.pkl", "DATA.PKL", "constants.pkl", "version", "PK\x01\x02", "PK\x03\x04", "PK\x05\x06", "\x93NUMPY", "descr",
    "fortran_order", "<f4", "|O", "GGUF", "general.alignment", "general.architecture", "torch._utils", "_rebuild_tensor_v2",
    "collections", "OrderedDict", "FloatStorage", "storage", "cpu", "os", "system", "\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.",
)  # fmt: skip


def _header(entries: dict[str, object] | str) -> bytes:
    return (entries if isinstance(entries, str) else json.dumps(entries)).encode()


def _file(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def _torch(content: object, **options: object) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, **options)
    return out.getvalue()


def _pickle(content: object) -> bytes:
    with zipfile.ZipFile(io.BytesIO(_torch(content))) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))


def _zip(members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", kind) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def _npy(shape: str, kind: str = "<f4", data: int = 24) -> bytes:
    head = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}}}".encode()
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head + bytes(data)


def _text(word: str) -> bytes:
    return struct.pack("<Q", len(word)) + word.encode()


def _gguf(pairs: bytes, n_pairs: int, tensors: bytes, n_tensors: int, data: int, version: int = 3) -> bytes:
    out = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_pairs) + pairs + tensors
    return out + bytes(-len(out) % 32) + bytes(data)


def _record(name: str, extents: tuple[int, ...], kind: int, offset: int) -> bytes:
    return _text(name) + struct.pack(f"<I{len(extents)}QIQ", len(extents), *extents, kind, offset)


def _dcp() -> bytes:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a checkpoint written by one process, as it is meant to be
        checkpoint.save({"a": torch.ones(2, 3), "n": torch.ones(4).half()}, checkpoint_id=folder, no_dist=True)
        return (Path(folder) / ".metadata").read_bytes()


ARCHITECTURE = _text("general.architecture") + struct.pack("<I", 8) + _text("llama")
TOKENS = _text("tokens") + struct.pack("<IIQ", 9, 8, 2) + _text("a") + _text("bc")
SCORES = _text("scores") + struct.pack("<IIQff", 9, 6, 2, 0.0, 1.0)
ALIGNMENT = _text("general.alignment") + struct.pack("<II", 4, 64)
STRIDE = (
    b"\x80\x02}X\x01\0\0\0wctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\0"
    + (b"0X\x03\0\0\0cpuK\x10tQK\0J\x60\xea\0\0J\x60\xea\0\0\x86K\0K\0\x86\x89ccollections\nOrderedDict\n)RtRs.")
)

SEEDS: dict[str, tuple[bytes, ...]] = {
    "safetensors": (
        save(TENSORS),
        save(TENSORS, {"format": "pt"}),
        _file(b"{}"),
        _file(_header({"w": F32}), bytes(24), 2**63),
        _file(_header({"w": F32}), bytes(23)),
        b"version https://git-lfs.github.com/spec/v1\n",
        b"\n<!DOCTYPE html>",
    ),
    "safetensors-header": (
        _header({"a": {**F32, "shape": [15], "data_offsets": [0, 60]}}),
        _header({"__metadata__": {"format": "pt"}, **LORA}),
        _header('{"w": {"dtype": "F64", "shape": [1e999], "data_offsets": [0, 16]}, "w": 3}'),
        _header({"w": {**F32, "shape": [2**61, 2**61], "data_offsets": [0, 60]}, "": {**F32, "data_offsets": [8, 32]}}),
        _header({"w\x1b[31m\u202e": {"dtype": "F8_E4M3", "shape": [], "data_offsets": [-1, 0]}}),
        b'{"\\ud800": {"dtype": "F4", "shape": [0, 3], "data_offsets": [60, 60]}}',
    ),
    "index": (
        _header({"metadata": {"total_size": 3}, "weight_map": {"a": "s.safetensors", "b": "s.safetensors"}}),
        _header({"weight_map": {"a": "../s.safetensors", "b": "C:\\x.safetensors", "c": 3}}),
        _header({"weight_map": {"c": "s.safetensors", "d": "t.safetensors"}}),
        _header('{"weight_map": {"a": "s.safetensors", "a": "t.safetensors"}}'),
    ),
    "json": (
        _header({"model_type": "llama", "x": [1, 2.5, None, True, {"a": "\u202e"}]}),
        b'{"a": NaN, "b": 1e400, "c": ' + b"9" * 120 + b"}",
        b'{"a": ' * 60 + b"1" + b"}" * 60,
        b"\xff\xfe{}",
    ),
    "adapter-config": (
        _header({"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "use_rslora": True}),
        _header({"peft_type": "LORA", "r": 4, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {r".*\.(q|k)_proj": 3.5}}),
        _header({"peft_type": "LOHA", "r": 8, "alpha": 8, "modules_to_save": ["x"], "task_type": "SEQ_CLS"}),
        _header({"fine_tune_type": "lora", "lora_parameters": {"rank": 8, "scale": 20.0}}),
        _header({"peft_type": "ADALORA", "rank_pattern": {"a": [True]}, "init_r": 12}),
        _header('{"peft_type": "LORA", "r": 1e400, "lora_alpha": "16", "rank_pattern": {"(a+)+$": 2}}'),
    ),
    "pattern": (b"q_proj\0", rb".*layers\.\d+\.self_attn\.(q|k)_proj" + b"\0x", b"(a+)+$\0" + b"a" * 64, b"(a|aa)*b\0aa", b"[\0"),
    "torch": (
        _torch(TENSORS),
        _torch({"state_dict": TENSORS, "epoch": 3}),
        _torch(TENSORS, _use_new_zipfile_serialization=False),
        _torch({"w": torch.nn.Parameter(torch.ones(2))}, pickle_protocol=3),
        pickle.dumps({"a": 1}, 2),
        _zip({"a/data.pkl": b"\x80\x02}.", "a/data/0": bytes(300)}, zipfile.ZIP_DEFLATED),
        _zip({"inner.bin": _zip({"a/data.pkl": b"\x80\x02}."})}),
    ),
    "torch-pickle": (
        _pickle(TENSORS),
        _pickle([torch.ones(2), torch.ones(1)]),
        _pickle({"w": torch.eye(3).to_sparse(), "v": torch.nn.Parameter(torch.ones(2))}),
        STRIDE,
        b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.",
        b"\x80\x02X\x02\0\0\0osX\x06\0\0\0system\x93)R.",
        b"\x80\x02}" + b")" + b"2\x86" * 60 + b"K\x01s.",
        b"\x80\x02X\xff\xff\xff\xff.",
    ),
    "npz": (
        _zip({"a.npy": _npy("(2, 3)"), "b.npy": _npy("()", "<f8", 8)}),
        _zip({"a.npy": _npy("(2, 3)")}, zipfile.ZIP_DEFLATED),
        _zip({"a.npy": _npy("(9, 9)"), "b.npy": _npy("(1,)", "|O")}),
    ),
    "npy": (_npy("(2, 3)"), _npy("(2**90,)"), _npy("(-1,)"), _npy("(" * 90), _npy("(6,)", "<U5")),
    "gguf": (
        _gguf(ARCHITECTURE + TOKENS + SCORES, 3, _record("q", (32, 4), 2, 0) + _record("n", (32,), 0, 96), 2, 224),
        _gguf(ALIGNMENT, 1, _record("q", (32, 4), 0, 0), 1, 576, version=2),
        _gguf(b"", 2**60, b"", 2**60, 0)[:49],
        _gguf(_text("k") + struct.pack("<IIQ", 9, 8, 2**60), 1, b"", 0, 0),
        _gguf(b"", 0, _record("t", (1, 1, 1, 1, 1), 0, 2**40), 1, 32),
    ),
    "dcp": (_dcp(), b"\x80\x02cos\nsystem\n.", b"\x80\x04}."),
    "inspected": (
        _header({"peft_type": "LORA", "r": 1, "lora_alpha": 2}) + b"\0" + _header(LORA),
        _header({"fine_tune_type": "lora", "lora_parameters": {"rank": 1, "scale": 2.0}}) + b"\0"
        + _header({key.replace("lora_A.weight", "lora_a").replace("lora_B.weight", "lora_b"): entry for key, entry in LORA.items()}),
        b"{}\0" + _header({key.replace("q.lora_A", "lora_unet_q.lora_down").replace("q.lora_B", "lora_unet_q.lora_up"): entry for key, entry in LORA.items()}),
    ),
}  # fmt: skip
assert sorted(SEEDS) == sorted(READERS)


def seeds() -> dict[str, bytes]:
    """Return every seed by its name, with the byte in front that picks its reader."""
    return {
        f"{kind}-{number}": bytes([place]) + content
        for place, kind in enumerate(READERS)
        for number, content in enumerate(SEEDS[kind])
    }


def write(folder: Path) -> None:
    """Write the seeds, and beside their folder the words that libFuzzer puts in."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in seeds().items():
        (folder / name).write_bytes(content)
    lines = ("".join(f"\\x{code:02x}" for code in word.encode("latin-1")) for word in WORDS)
    (folder.parent / f"{folder.name}.dict").write_text("".join(f'"{line}"\n' for line in lines))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
