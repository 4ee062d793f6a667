"""Packed weights: every scheme is dequantised as its definition says, or refused with one sentence.

The packers here are written from the definitions, with no line of the package: codes become bits, bits become bytes.
"""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from spectra import open_pairs
from spectra.errors import FormatError, InputError, UnsupportedError
from spectra.loaders.base import open_base
from spectra.loaders.inspection.inspect import inspect
from spectra.loaders.quantization.schemes import SCHEMES
from spectra.loaders.quantization.signs import SIGNS

M = "model.layers.0.self_attn.q_proj"
K = f"{M}.weight"
CASES = """awq_gemm bitnet_autobitlinear ct_fp8_block_ragged ct_fp8_tensor ct_mxfp4 ct_pack_int4_group
    ct_pack_int8_channel fp8_block_deepseek gptq_3bit_v1 gptq_4bit_v1_asym_actorder gptq_4bit_v1_sym gptq_8bit_v1
    hqq_4bit_axis1 mlx_qlora_4bit mxfp4_gptoss qlora_int8 qlora_nf4_double_quant qlora_nf4_single_quant quanto_qint4
    torchao_int8 torchao_intx4_group"""
FP4 = torch.tensor([0.0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def streamed(codes, bits, dtype=np.int32):
    """Pack every row of codes as one stream of bits, lowest first, padded to whole words."""
    rows = codes.reshape(-1, codes.shape[-1]).numpy().astype(np.uint8)
    bit = np.unpackbits(rows[..., None], axis=-1, bitorder="little", count=8)[..., :bits].reshape(len(rows), -1)
    width = 8 * np.dtype(dtype).itemsize
    bit = np.pad(bit, ((0, 0), (0, -bit.shape[1] % width)))
    words = np.ascontiguousarray(np.packbits(bit, axis=1, bitorder="little")).view(dtype)
    return torch.from_numpy(words).reshape(*codes.shape[:-1], -1)


def write(folder, tensors, config=None, metadata=None, **beside):
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, folder / "model.safetensors", metadata)
    for name, document in {"config": config or {}, **beside}.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    return folder


def declared(method, **settings):
    return {"quantization_config": {"quant_method": method, **settings}}


@pytest.fixture
def unpack(tmp_path):
    """Write tensors of one module as a checkpoint, and return its weight as it is read, with its declaration."""

    def _unpack(parts, config=None, key=K, metadata=None, **beside):
        named = {(f"{M}{name}" if name.startswith(("_", ".")) else name): part for name, part in parts.items()}
        base = open_base(write(tmp_path / "packed", named, config, metadata, **beside))
        return base.source.tensor(key), base.tensors[key]

    return _unpack


def close(found, expected):
    """Assert equality up to the rounding of a product or two in float32."""
    assert found.dtype == torch.float32
    assert found.shape == expected.shape
    torch.testing.assert_close(found.double(), expected.double(), rtol=5e-7, atol=1e-9)


def codes_of(bits, *shape, seed=0):
    return torch.randint(2**bits, shape, generator=torch.Generator().manual_seed(seed))


def floats_of(*shape, seed=1):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) + 0.5


# The cases made by the libraries


@pytest.mark.parametrize("name", CASES.split())
def test_every_base_of_the_libraries_is_dequantised_right(oracle, name):
    case = oracle / name
    about = json.loads((case / "case.json").read_text())
    tolerance = about.get("base_tolerance") or about["tolerance"]
    base = open_base(case / "base")
    truth = load_file(case / "truth_base.safetensors")
    for key, true in truth.items():
        found, allowed = base.source.tensor(key), tolerance["atol"] + tolerance["rtol"] * true.abs()
        if name == "quanto_qint4":  # the library took the shift off in bfloat16: half a step of what it took it from
            stored = load_file(case / "base" / "model.safetensors")
            allowed = allowed + 2.0**-8 * stored[f"{key}._shift"].float().abs().max()
        assert found.shape == true.shape == base.tensors[key].shape
        assert bool(((found - true).abs() <= allowed).all()), f"{key}: off by {(found - true).abs().max():.1e}"
    assert {key for key, info in base.tensors.items() if info.dtype != info.read_as} == set(truth)


def test_the_cases_in_the_dtype_of_the_library_round_to_its_own_numbers(oracle):
    for name in ("ct_pack_int4_group", "ct_fp8_block_ragged", "torchao_int8", "torchao_intx4_group"):
        base = open_base(oracle / name / "base")
        for key, true in load_file(oracle / name / "truth_base.safetensors").items():
            assert torch.equal(base.source.tensor(key).bfloat16().float(), true), (name, key)


# bitsandbytes


def bitsandbytes(codes, step, kind="nf4", storage=torch.uint8, nested=None, odd=0):
    """Return the tensors of a 4-bit weight of these codes, and the weight."""
    flat = codes.flatten()
    table, runs = torch.linspace(-1, 1, 16) ** 3, math.ceil(len(flat) / step)
    absmax, state = floats_of(runs), {"quant_type": kind, "blocksize": step, "shape": list(codes.shape)}
    parts = {".weight.absmax": absmax}
    if nested:
        small = codes_of(8, runs, seed=3).to(torch.uint8)
        levels, scales = torch.linspace(-1, 1, 256), floats_of(math.ceil(runs / nested), seed=4)
        absmax = levels[small.long()] * scales[torch.arange(runs) // nested] + 0.75
        parts = {".weight.absmax": small, ".weight.nested_absmax": scales, ".weight.nested_quant_map": levels}
        state |= {"nested_blocksize": nested, "nested_dtype": "float32", "nested_offset": 0.75}
    pairs = torch.nn.functional.pad(flat, (0, len(flat) % 2)).reshape(-1, 2)
    packed = (pairs[:, 0] << 4 | pairs[:, 1]).to(torch.uint8)
    parts |= {
        ".weight": packed.view(storage).reshape(-1, 1),
        ".weight.quant_map": table,
        f".weight.quant_state.bitsandbytes__{kind}": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8),
    }
    W = (table[flat] * absmax[torch.arange(len(flat)) // step]).reshape(codes.shape)
    return parts, W


@pytest.mark.parametrize("nested", [None, 256, 8])
@pytest.mark.parametrize("storage", [torch.uint8, torch.bfloat16, torch.float32, torch.int8])
@pytest.mark.parametrize(("shape", "step"), [((24, 32), 64), ((24, 32), 128), ((5, 40), 64), ((3, 8, 16), 4096)])
@pytest.mark.parametrize("kind", ["nf4", "fp4"])
def test_bitsandbytes_four_bits(unpack, kind, shape, step, storage, nested):
    parts, W = bitsandbytes(codes_of(4, *shape), step, kind, storage, nested)
    found, info = unpack(parts)
    close(found, W)
    assert (info.dtype, info.bytes) == (kind, sum(part.nbytes for part in parts.values()))


def test_a_stack_of_four_bit_experts_is_read_expert_by_expert(tmp_path):
    name = "model.layers.0.mlp.experts.down_proj"
    parts, W = bitsandbytes(codes_of(4, 3, 8, 10), 64)
    source = open_base(
        write(tmp_path, {part.replace(".weight", name): tensor for part, tensor in parts.items()})
    ).source
    for index in (2, 0, 1):
        close(source.part(name, index), W[index])


def test_an_odd_number_of_four_bit_codes_ends_in_half_a_byte(unpack):
    parts, W = bitsandbytes(codes_of(4, 5, 7), 64)
    close(unpack(parts)[0], W)


def test_bitsandbytes_of_the_installed_library(unpack):
    functional = pytest.importorskip("bitsandbytes.functional")
    W = torch.randn(32, 128)
    for kind, nested in itertools.product(("nf4", "fp4"), (False, True)):
        packed, state = functional.quantize_4bit(W, quant_type=kind, compress_statistics=nested)
        parts = {f".weight.{key}": part for key, part in state.as_dict(packed=True).items()}
        close(unpack({".weight": packed, **parts})[0], functional.dequantize_4bit(packed, state))


def test_bitsandbytes_int8(unpack):
    q, scale = codes_of(8, 6, 8).sub(128).to(torch.int8), floats_of(6)
    parts = {".weight": q, ".SCB": scale, ".weight_format": torch.tensor(0, dtype=torch.uint8)}
    close(unpack(parts)[0], q.double() * scale.double()[:, None] / 127)
    parts[".weight_format"] = torch.tensor(3, dtype=torch.uint8)
    with pytest.raises(UnsupportedError, match=f"'{K}' is packed by bitsandbytes int8 in the tiles of one kind of GPU"):
        unpack(parts)


# GPTQ and AWQ


def gptq(bits, *, n=64, m=32, groups=2, version=2, order=None, by_words=False, zeros=None):
    """Return the tensors of a GPTQ weight, and the weight."""
    q, s = codes_of(bits, m, n), floats_of(groups, m).half()
    z = codes_of(bits, groups, m, seed=2) if zeros is None else zeros
    g = torch.arange(n) // (n // groups) if order is None else order
    if version == 1 and by_words:
        ones = sum(1 << shift for shift in range(0, 32, bits))
        words = streamed(z, bits).numpy().view(np.uint32) - np.uint32(ones)
        stored = torch.from_numpy(words.view(np.int32))
    else:
        stored = streamed((z - 1) % 2**bits if version == 1 else z, bits)
    parts = {".qweight": streamed(q, bits).T, ".qzeros": stored, ".scales": s, ".g_idx": g.int()}
    return parts, (q - z.T[:, g]).double() * s.double().T[:, g]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_gptq(unpack, bits, version):
    order = torch.arange(64).remainder(4)[torch.randperm(64, generator=torch.Generator().manual_seed(5))]
    config = declared("gptq", bits=bits, group_size=16, checkpoint_format="gptq" if version == 1 else "gptq_v2")
    for groups, given in ((4, None), (4, order), (1, None)):
        config["quantization_config"]["group_size"] = -1 if groups == 1 else 16
        parts, W = gptq(bits, version=version, groups=groups, order=given)
        found, info = unpack(parts, config)
        close(found, W)
        assert info.dtype == f"int{bits}"
        if given is None:
            del parts[".g_idx"]
            close(unpack(parts, config)[0], W)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("writer", "by_words"), [("gptqmodel:2.0.0", True), ("auto_gptq:0.7", False), (None, False)])
def test_a_zero_of_zero_is_read_as_its_writer_stored_it(unpack, bits, writer, by_words):
    zeros = codes_of(bits, 2, 32, seed=2)
    zeros[:, ::3] = 0
    parts, W = gptq(bits, version=1, by_words=by_words, zeros=zeros)
    close(unpack(parts, declared("gptq", bits=bits, group_size=32, meta=writer and {"quantizer": [writer]}))[0], W)


def test_single_layers_of_gptq_may_have_bits_of_their_own(unpack):
    parts, W = gptq(8, version=1)
    close(unpack(parts, declared("gptq", bits=4, group_size=32, dynamic={"+:q_proj": {"bits": 8}}))[0], W)
    with pytest.raises(FormatError, match="it has 8 bits and the configuration 4"):
        unpack(parts, declared("gptq", bits=4, group_size=32))


def test_what_autogptq_wrote_beside_the_weights_is_read(unpack, tmp_path):
    parts, W = gptq(4, version=1)
    close(unpack(parts, {"model_type": "llama"}, quantize_config={"bits": 4, "group_size": 32})[0], W)
    assert inspect(tmp_path / "packed").readable


def test_old_gptqmodel_is_doubted_about_three_bits(unpack, tmp_path):
    for version, doubted in (("5.6.12", True), ("6.0.0", False)):
        parts, _ = gptq(3, version=1)
        unpack(parts, declared("gptq", bits=3, group_size=32, meta={"quantizer": [f"gptqmodel:{version}"]}))
        assert any("gptqmodel up to 5.6" in note for note in open_base(tmp_path / "packed").notes) == doubted


def awq(n=64, m=32, groups=2):
    q, z, s = codes_of(4, n, m), codes_of(4, groups, m, seed=2), floats_of(groups, m).half()
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def packed(codes):
        return streamed(codes.reshape(len(codes), -1, 8)[..., order].reshape(len(codes), -1), 4)

    g = torch.arange(n) // (n // groups)
    return {".qweight": packed(q), ".qzeros": packed(z), ".scales": s}, ((q - z[g]).double() * s.double()[g]).T


def test_awq(unpack):
    for groups in (1, 2, 8):
        parts, W = awq(groups=groups)
        for config in (declared("awq", bits=4, version="gemm", group_size=64 // groups), {}):
            found, info = unpack(parts, config)
            close(found, W)
            assert info.dtype == "int4"
    close(unpack(parts, None, quant_config={"w_bit": 4, "q_group_size": 8, "version": "GEMM"})[0], W)


@pytest.mark.parametrize("version", ["gemv", "gemv_fast", "marlin"])
def test_the_other_layouts_of_awq_are_refused_by_name(unpack, tmp_path, version):
    with pytest.raises(UnsupportedError, match=f"is packed by AWQ in the layout {version}, which"):
        unpack(awq()[0], declared("awq", bits=4, version=version))
    assert f"AWQ in the layout {version}: give the unquantised" in inspect(tmp_path / "packed").reason


def test_gemv_that_nobody_declares_shows_in_its_shapes(unpack):
    parts = {".qweight": streamed(codes_of(4, 32, 64), 4), ".qzeros": streamed(codes_of(4, 32, 64), 4)}
    with pytest.raises(UnsupportedError, match="AWQ in the layout gemv"):
        unpack({**parts, ".scales": floats_of(32, 64).half()})


# Eight-bit floats


def float8(*shape, dtype=torch.float8_e4m3fn):
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).mul(4).to(dtype)


def by_blocks(scale, block, shape):
    rows, columns = torch.arange(shape[-2]) // block[0], torch.arange(shape[-1]) // block[1]
    return scale.double()[..., rows, :][..., columns]


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "e8m0", "bytes"])
@pytest.mark.parametrize(("shape", "block"), [((64, 96), (32, 16)), ((70, 33), (32, 16)), ((130, 129), (128, 128))])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_block_fp8(unpack, dtype, shape, block, kind):
    grid = (math.ceil(shape[0] / block[0]), math.ceil(shape[1] / block[1]))
    exponents = codes_of(4, *grid).add(120).to(torch.uint8)
    scale = {
        "float32": floats_of(*grid),
        "bfloat16": floats_of(*grid).bfloat16(),
        "e8m0": exponents.view(torch.float8_e8m0fnu),
        "bytes": exponents,
    }[kind]
    true = 2.0 ** (exponents.double() - 127) if kind in ("e8m0", "bytes") else scale
    w = float8(*shape, dtype=dtype)
    config = declared("fp8", weight_block_size=list(block))
    found, info = unpack({".weight": w, ".weight_scale_inv": scale}, config)
    close(found, w.double() * by_blocks(true, block, shape))
    assert info.dtype == str(dtype).removeprefix("torch.")


def test_fp8_with_one_scale(unpack):
    w = float8(16, 24)
    for shape in ((), (1,), (1, 1)):
        close(
            unpack({".weight": w, ".weight_scale_inv": floats_of(1).reshape(shape)})[0],
            w.double() * floats_of(1).item(),
        )


@pytest.mark.parametrize("method", ["fp8", "fbgemm_fp8", "modelopt"])
def test_fp8_with_a_scale_a_row_or_a_tensor(unpack, method):
    w = float8(16, 24)
    for scale in (floats_of(16, 1), floats_of(16), floats_of(1), floats_of(1).reshape(())):
        parts = {".weight": w, ".weight_scale": scale, ".input_scale": torch.ones(1)}
        close(unpack(parts, declared(method))[0], w.double() * scale.double().reshape(-1, 1))


def test_a_stack_of_fp8_experts_is_read_expert_by_expert(tmp_path):
    w, scale = float8(3, 64, 48), floats_of(3, 4, 3)
    name = "model.layers.0.mlp.experts.gate_up_proj"
    folder = write(tmp_path, {name: w, f"{name}_scale_inv": scale}, declared("fp8", weight_block_size=[16, 16]))
    source = open_base(folder).source
    true = w.double() * by_blocks(scale, (16, 16), w.shape)
    close(source.tensor(name), true)
    close(source.part(name, 2), true[2])
    write(tmp_path, {name: w, f"{name}_scale_inv": floats_of(3, 2, 3)}, declared("fp8", weight_block_size=[48, 16]))
    with pytest.raises(UnsupportedError, match="two halves do not fill blocks of 48 rows"):
        open_base(folder)


def test_experts_packed_as_fp4_lie_beside_fp8(unpack):
    q, exponents = codes_of(4, 16, 64), codes_of(3, 16, 2).add(124).to(torch.uint8)
    parts = {".weight": streamed(q, 4, np.int8), ".weight_scale_inv": exponents.view(torch.float8_e8m0fnu)}
    found, info = unpack(parts, declared("fp8", weight_block_size=[128, 128]))
    close(found, FP4[q].double() * by_blocks(2.0 ** (exponents.double() - 127), (1, 32), (16, 64)))
    assert info.dtype == "fp4"


# compressed-tensors


def compressed(kind, **weights):
    group = {"targets": ["Linear"], "weights": weights}
    return declared("compressed-tensors", format=kind, config_groups={"group_0": group})


def gapped(codes, bits):
    """Pack as compressed-tensors once did: as many fields as a word holds whole, the rest of it empty."""
    per = 32 // bits
    codes = torch.nn.functional.pad(codes, (0, -codes.shape[-1] % per)).reshape(len(codes), -1, per)
    words = (codes << (torch.arange(per) * bits)).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).int()


@pytest.mark.parametrize("pack", [streamed, gapped])
@pytest.mark.parametrize("strategy", ["tensor", "channel", "group"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(1, 9))
def test_compressed_integers(unpack, bits, symmetric, strategy, pack):
    m, n, step = 40, 96, {"tensor": 96, "channel": 96, "group": 32}[strategy]
    q, z = codes_of(bits, m, n) - 2 ** (bits - 1), codes_of(bits, m, n // step, seed=2) - 2 ** (bits - 1)
    s = floats_of(1) if strategy == "tensor" else floats_of(m, n // step).bfloat16()
    shape = torch.tensor([m, n])
    parts = {".weight_packed": pack(q + 2 ** (bits - 1), bits), ".weight_scale": s, ".weight_shape": shape}
    if strategy == "tensor" or symmetric:
        symmetric, z = True, z * 0
    else:
        parts[".weight_zero_point"] = pack(z.T + 2 ** (bits - 1), bits).T
    settings = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy}
    config = compressed("pack-quantized", **settings, group_size=step if strategy == "group" else None)
    scale = by_blocks(s.reshape(1, 1), (m, n), (m, n)) if strategy == "tensor" else by_blocks(s, (1, step), (m, n))
    true = (q - by_blocks(z, (1, step), (m, n))) * scale
    found, info = unpack(parts, config)
    close(found, true)
    assert info.dtype == f"int{bits}"
    if not symmetric:
        parts[".weight_zero_point"] = z.to(torch.int8)
        close(unpack(parts, config)[0], true)
        del parts[".weight_zero_point"]
        with pytest.raises(FormatError, match="its weight_zero_point is missing"):
            unpack(parts, config)


def test_a_width_that_the_words_do_not_tell_is_refused(unpack):
    parts = {".weight_packed": torch.zeros(4, 2).int(), ".weight_scale": floats_of(4, 1)}
    with pytest.raises(FormatError, match="2 words hold 20 integers in 2 of the ways that are declared"):
        unpack({**parts, ".weight_shape": torch.tensor([4, 20])}, compressed("pack-quantized", num_bits=3, type="int"))


def test_compressed_integers_in_another_order(unpack):
    m, n = 8, 64
    q, s = codes_of(4, m, n) - 8, floats_of(m, 4)
    order = torch.arange(n).remainder(4)[torch.randperm(n, generator=torch.Generator().manual_seed(5))]
    parts = {".weight_packed": streamed(q + 8, 4), ".weight_scale": s, ".weight_shape": torch.tensor([m, n])}
    config = compressed("pack-quantized", num_bits=4, type="int", symmetric=True, group_size=16)
    close(unpack({**parts, ".weight_g_idx": order.int()}, config)[0], q * s.double()[:, order])
    unset = torch.full((n,), -1).int()
    close(unpack({**parts, ".weight_g_idx": unset}, config)[0], q * by_blocks(s, (1, 16), (m, n)))
    with pytest.raises(FormatError, match="its weight_g_idx names no group"):
        unpack({**parts, ".weight_g_idx": order.int() + 1}, config)


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn])
@pytest.mark.parametrize(
    ("grid", "block", "settings"),
    [
        ((1,), (40, 100), {"strategy": "tensor"}),
        ((40, 1), (1, 100), {"strategy": "channel"}),
        ((40,), (1, 100), {"strategy": "channel"}),
        ((40, 4), (1, 25), {"strategy": "group", "group_size": 25}),
        ((2, 3), (32, 48), {"strategy": "block", "block_structure": [32, 48]}),
    ],
    ids=str,
)
def test_compressed_codes_that_are_not_packed(unpack, dtype, grid, block, settings):
    w = codes_of(8, 40, 100).sub(128).to(dtype) if dtype == torch.int8 else float8(40, 100)
    s = floats_of(*grid)
    square = s.reshape(1, 1) if s.numel() == 1 else s.reshape(len(s), -1)
    scale = by_blocks(square, block, (40, 100))
    config = compressed("int-quantized", num_bits=8, **settings)
    close(unpack({".weight": w, ".weight_scale": s}, config)[0], w.double() * scale)
    if dtype == torch.int8:
        z = codes_of(4, *grid, seed=3).to(torch.int8)
        true = (w.double() - by_blocks(z.reshape(square.shape), block, (40, 100))) * scale
        close(unpack({".weight": w, ".weight_scale": s, ".weight_zero_point": z}, config)[0], true)


def test_nvfp4_divides_by_its_global_scale(unpack):
    q, s, whole = codes_of(4, 8, 64), float8(8, 4).abs(), torch.tensor([37.5])
    parts = {".weight_packed": streamed(q, 4, np.uint8), ".weight_scale": s.to(torch.float8_e4m3fn)}
    config = compressed("nvfp4-pack-quantized", num_bits=4, type="float", group_size=16)
    found, info = unpack({**parts, ".weight_global_scale": whole}, config)
    close(found, FP4[q].double() * by_blocks(s.double() / 37.5, (1, 16), (8, 64)))
    assert info.dtype == "nvfp4"
    with pytest.raises(FormatError, match="its weight_global_scale is missing"):
        unpack(parts, config)


@pytest.mark.parametrize("kind", ["mxfp4", "mxfp6", "mxfp8"])
def test_compressed_microscaling(unpack, kind):
    exponents = codes_of(3, 8, 2).add(124).to(torch.uint8)
    scale = by_blocks(2.0 ** (exponents.double() - 127), (1, 32), (8, 64))
    if kind == "mxfp8":
        w = float8(8, 64)
        parts, true = {".weight": w}, w.double()
    elif kind == "mxfp6":
        q = codes_of(6, 8, 64)
        exponent, mantissa = (q >> 3) & 3, (q & 7).double()
        magnitude = torch.where(exponent == 0, mantissa / 8, (1 + mantissa / 8) * 2.0 ** (exponent - 1))
        parts, true = {".weight_packed": streamed(q, 6, np.uint8)}, magnitude * torch.where(q >= 32, -1, 1)
    else:
        q = codes_of(4, 8, 64)
        parts, true = {".weight_packed": streamed(q, 4, np.uint8)}, FP4[q].double()
    config = compressed(f"{kind}-pack-quantized", type="float", group_size=32)
    close(unpack({**parts, ".weight_scale": exponents}, config)[0], true * scale)


# MXFP4, torchao, HQQ, quanto, BitNet, MLX


def test_mxfp4_experts_come_transposed_and_one_by_one(tmp_path):
    name, q = "model.layers.0.mlp.experts.down_proj", codes_of(4, 3, 24, 64)
    exponents = codes_of(3, 3, 24, 2, seed=2).add(124).to(torch.uint8)
    blocks = streamed(q.reshape(3, 24, 2, 32), 4, np.uint8)
    folder = write(tmp_path, {f"{name}_blocks": blocks, f"{name}_scales": exponents}, {"model_type": "gpt_oss"})
    base = open_base(folder)
    true = (FP4[q].double() * (2.0 ** (exponents.double() - 127)).repeat_interleave(32, -1)).transpose(1, 2)
    assert base.tensors[name].shape == (3, 64, 24)
    close(base.source.tensor(name), true)
    close(base.source.part(name, 1), true[1])
    assert list(base.indices(name)) == [0, 1, 2]
    close(base.matrix(name, index=1), true[1].T)
    assert base.storage(name).bytes == (blocks.nbytes + exponents.nbytes) // 3


def described(kind, block, names, **attributes):
    told = {"_type": kind, "_data": {"block_size": block, **attributes}, "_tensor_data_names": names}
    return {K: json.dumps(told), "tensor_names": json.dumps([K])}


@pytest.mark.parametrize(
    ("kind", "block", "grid"),
    [
        ("Int8Tensor", [1, 64], (1, 64)),
        ("Int8Tensor", [1, -1], (1, 64)),
        ("Int8Tensor", [16, 64], (16, 64)),
        ("IntxUnpackedToInt8Tensor", [1, 16], (1, 16)),
        ("Float8Tensor", [1, 64], (1, 64)),
        ("Float8Tensor", [8, 16], (8, 16)),
    ],
)
def test_torchao(unpack, kind, block, grid):
    floats = kind == "Float8Tensor"
    q = float8(16, 64) if floats else codes_of(4, 16, 64).sub(8).to(torch.int8)
    s, z = floats_of(16 // grid[0], 64 // grid[1]), codes_of(3, 16 // grid[0], 64 // grid[1]).to(torch.int8)
    names = [f"{M}._weight_{part}" for part in ("qdata", "scale", "zero_point")]
    parts = {names[0]: q, names[1]: s} | ({} if floats else {names[2]: z})
    target = {"target_dtype": {"_type": "torch.dtype", "_data": "int4"}} if "Intx" in kind else {}
    found, info = unpack(parts, declared("torchao"), metadata=described(kind, block, ["qdata", "scale"], **target))
    shift = 0 if floats else by_blocks(z, grid, (16, 64))
    close(found, (q.double() - shift) * by_blocks(s, grid, (16, 64)))
    assert info.dtype == {"I": "int4" if target else "int8", "F": "float8_e4m3fn"}[kind[0]]


def test_torchao_in_shards_keeps_what_its_metadata_says(tmp_path):
    q, s = codes_of(4, 8, 32).to(torch.int8), floats_of(8, 1)
    names = (f"{M}._weight_qdata", f"{M}._weight_scale")
    save_file(
        {names[0]: q, names[1]: s}, tmp_path / "model-00001-of-00002.safetensors", described("Int8Tensor", [1, 32], [])
    )
    save_file({"norm.weight": torch.ones(4)}, tmp_path / "model-00002-of-00002.safetensors")
    placed = dict.fromkeys(names, "model-00001-of-00002.safetensors") | {
        "norm.weight": "model-00002-of-00002.safetensors"
    }
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
    close(open_base(tmp_path).source.tensor(K), q.double() * s.double())


def hqq(bits, axis, step, shape=(32, 40), as_float=False):
    size = math.prod(shape)
    rows, columns = (size // step, step) if axis == 1 else (step, size // step)
    q = codes_of(bits, rows, columns)
    across = (rows, 1) if axis == 1 else (1, columns)
    s, z = floats_of(*across), floats_of(*across, seed=2) * 3
    per, word = {8: 1, 4: 2, 3: 10, 2: 4, 1: 8}[bits], torch.int32 if bits == 3 else torch.uint8
    padded = torch.nn.functional.pad(q, (0, 0, 0, -rows % per)).chunk(per)
    packed = sum(part << bits * (per - 1 - place) for place, part in enumerate(padded)).to(word)
    name = {8: "8bit_u8", 4: "4bit_u8", 3: "3bit_32", 2: "2bit_u8", 1: "1bit_u8"}[bits]
    parts = {
        ".W_q": packed.view(torch.float16) if as_float else packed,
        ".scale": s,
        ".zero": z,
        ".shape": torch.tensor(shape),
        ".axis": torch.tensor(axis, dtype=torch.int32),
        ".packing": torch.tensor(list(name.encode()), dtype=torch.uint8),
        ".quant_zero": torch.tensor(0, dtype=torch.uint8),
    }
    return parts, ((q - z.double()) * s.double()).reshape(shape)


@pytest.mark.parametrize("as_float", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("bits", [8, 4, 3, 2, 1])
def test_hqq(unpack, bits, axis, as_float):
    for step in (8, 32, 40):
        parts, W = hqq(bits, axis, step, as_float=as_float)
        found, info = unpack(parts)
        close(found, W)
        assert info.dtype == f"int{bits}"


def test_hqq_with_packed_scales_is_refused(unpack):
    parts, _ = hqq(4, 1, 8)
    with pytest.raises(UnsupportedError, match="HQQ with quant_zero"):
        unpack({**parts, ".quant_zero": torch.tensor(1, dtype=torch.uint8)})


def quanto(bits, m, n, step, whole=False):
    groups = m * n // step
    q, s = codes_of(bits, groups, step), floats_of(groups, 1).bfloat16()
    shift = codes_of(bits, groups, 1, seed=2).to(torch.int8) if whole else floats_of(groups, 1, seed=2).bfloat16()
    per = 8 // bits
    chunks = torch.nn.functional.pad(q, (0, 0, 0, -groups % per)).chunk(per)
    packed = sum(part << bits * place for place, part in enumerate(chunks)).to(torch.uint8)
    true = (q - shift.double()) * s.double() if whole else q * s.double() - shift.double()
    return {".weight._data._data": packed, ".weight._scale": s, ".weight._shift": shift}, true.reshape(m, n)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("bits", [4, 2])
def test_quanto_in_groups(unpack, bits, whole):
    sizes = {"hidden_size": 64, "intermediate_size": 100, "num_attention_heads": 4, "num_key_value_heads": 2}
    for m, n in ((64, 64), (100, 64), (64, 100), (32, 64)):
        parts, W = quanto(bits, m, n, n, whole)
        found, info = unpack(parts, sizes)
        close(found, W)
        assert info.dtype == f"int{bits}"
    parts, W = quanto(bits, 64, 256, 128, whole)
    close(unpack(parts, {"hidden_size": 256, "intermediate_size": 64})[0], W)


def test_quanto_weights_of_unknown_shape_are_refused_unless_something_tells(unpack):
    sizes = {"hidden_size": 256, "intermediate_size": 384}
    parts, W = quanto(4, 384, 256, 128)
    close(unpack(parts, sizes)[0], W)  # q_proj reads the width of the model
    unnamed = {name.replace(".weight", "odd.weight"): part for name, part in parts.items()}
    with pytest.raises(UnsupportedError, match="768 groups of 128, of which the files do not say how many are a row"):
        unpack(unnamed, sizes, "odd.weight")
    close(unpack({**unnamed, "odd.bias": torch.zeros(384)}, sizes, "odd.weight")[0], W)
    down = {name.replace(".weight", "mlp.down_proj.weight"): part for name, part in parts.items()}
    close(unpack(down, sizes, "mlp.down_proj.weight")[0], W.reshape(256, 384))


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.float8_e5m2])
def test_quanto_eight_bits(unpack, dtype):
    for shape in ((12, 16), (4, 3, 5, 5)):
        w = float8(*shape, dtype=torch.float8_e5m2).float().to(dtype)
        for scale in (floats_of(shape[0], *(1 for _ in shape[1:])), floats_of(1).reshape(())):
            close(unpack({".weight._data": w, ".weight._scale": scale})[0], w.double() * scale.double())


@pytest.mark.parametrize("kind", ["bitlinear", "autobitlinear", None])
def test_bitnet(unpack, kind):
    q, scale = torch.randint(3, (16, 12)), torch.tensor([2.5]).bfloat16()
    packed = sum(part << 2 * slot for slot, part in enumerate(q.chunk(4))).to(torch.uint8)
    config = declared("bitnet", **({"linear_class": kind} if kind else {}))
    factor = 2.5 if kind == "autobitlinear" else 1 / 2.5
    close(unpack({".weight": packed, ".weight_scale": scale}, config)[0], (q - 1).double() * factor)
    with pytest.raises(FormatError, match="a code that is none of -1, 0 and 1"):
        unpack({".weight": packed | 3, ".weight_scale": scale}, config)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_mlx(unpack, bits):
    for step, stack in itertools.product((32, 64), ((), (3,))):
        q = codes_of(bits, *stack, 8, 128)
        s, b = floats_of(*stack, 8, 128 // step), floats_of(*stack, 8, 128 // step, seed=2)
        parts = {".weight": streamed(q, bits, np.uint32), ".scales": s.bfloat16(), ".biases": b.half()}
        own = {M: {"group_size": step, "bits": bits}}
        spread = [part.double().repeat_interleave(step, -1) for part in (s.bfloat16(), b.half())]
        for config in ({"group_size": step, "bits": bits}, {"group_size": 128, "bits": 4, **own}):
            found, info = unpack(parts, {"quantization": config})
            close(found, q * spread[0] + spread[1])
            assert info.dtype == f"int{bits}"


@pytest.mark.parametrize(("mode", "bits", "step"), [("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)])
def test_mlx_microscaling(unpack, mode, bits, step):
    q = codes_of(4, 8, 64) if bits == 4 else float8(8, 64).view(torch.uint8)
    values = FP4[q].double() if bits == 4 else q.view(torch.float8_e4m3fn).double()
    s = codes_of(3, 8, 64 // step).add(120).to(torch.uint8)
    scale = float8(8, 64 // step).abs() if mode == "nvfp4" else 2.0 ** (s.double() - 127)
    s = scale.to(torch.float8_e4m3fn).view(torch.uint8) if mode == "nvfp4" else s
    config = {"quantization": {"mode": mode, "bits": bits, "group_size": step}}
    parts = {".weight": streamed(q, bits, np.uint32), ".scales": s}
    close(unpack(parts, config)[0], values * by_blocks(scale.double(), (1, step), (8, 64)))


# What holds for all of them


def test_every_sign_has_its_scheme():
    assert {sign.scheme for sign in SIGNS} == set(SCHEMES)


def test_a_packed_base_is_what_the_pairs_are_measured_against(tmp_path):
    parts, W = bitsandbytes(codes_of(4, 32, 48), 64)
    packed = write(
        tmp_path / "b", {f"{M}{name}": part for name, part in parts.items()} | {"norm.weight": torch.ones(8)}
    )
    tuned = W.float() + 0.01 * torch.randn(32, 48)
    full = write(tmp_path / "t", {K: tuned, "norm.weight": torch.ones(8)})
    with open_pairs(packed, full) as pairs:
        assert pairs.keys == (K,)
        assert (
            "the base is dequantised from bitsandbytes NF4: dW is measured against the dequantised weights"
            in pairs.notes
        )
        assert [key for key, _ in pairs.skipped] == ["norm.weight"]
        pair = pairs.pair(K)
    close(pair.base, W)
    close(pair.update.dense(), tuned.double() - W.float().double())
    assert (pair.base_storage.dtype, pair.base_storage.parameters) == ("nf4", 32 * 48)
    assert pair.base_storage.bytes == sum(part.nbytes for part in parts.values())
    assert any("dequantised from nf4" in note for note in pair.notes)
    with open_pairs(full, packed) as pairs:
        assert "the tuned checkpoint is dequantised from bitsandbytes NF4" in pairs.notes
        assert pairs.info.bytes == sum(part.nbytes for part in parts.values()) + 32
        close(pairs.pair(K).update.dense(), W.float().double() - tuned.double())


def test_an_adapter_on_a_packed_base_changes_what_it_changes_unpacked(tmp_path):
    parts, W = gptq(4, version=2)
    config = declared("gptq", bits=4, group_size=32, checkpoint_format="gptq_v2")
    bases = (
        write(tmp_path / "packed", {f"{M}{name}": part for name, part in parts.items()}, config),
        write(tmp_path / "plain", {K: W.float()}),
    )
    factors = {
        f"base_model.model.{M}.lora_A.weight": floats_of(2, 64),
        f"base_model.model.{M}.lora_B.weight": floats_of(32, 2),
    }
    (tmp_path / "a").mkdir()
    save_file(factors, tmp_path / "a" / "adapter_model.safetensors")
    for option in ({}, {"use_dora": True}):
        if option:
            save_file(
                {**factors, f"base_model.model.{M}.lora_magnitude_vector": floats_of(32)},
                tmp_path / "a" / "adapter_model.safetensors",
            )
        document = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, **option}
        (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(document))
        first, second = (open_pairs(base, tmp_path / "a").pair(K).update.dense() for base in bases)
        torch.testing.assert_close(first, second)


@pytest.mark.parametrize("square", [False, True])
def test_the_conv1d_of_gpt2_lies_straight_once_it_is_packed(tmp_path, square):
    name, (m, n) = "h.0.attn.c_proj", (64, 64) if square else (64, 32)
    parts, W = bitsandbytes(codes_of(4, m, n), 64)
    config = {"model_type": "gpt2"}
    packed = write(tmp_path / "b", {f"{name}{part}": tensor for part, tensor in parts.items()}, config)
    plain = write(tmp_path / "t", {f"{name}.weight": W.float().T}, config)
    for base, tuned in ((packed, plain), (plain, packed), (packed, packed)):
        pair = open_pairs(base, tuned).pair(f"{name}.weight")
        close(pair.base, W)
        assert not pair.update.dense().any()


def test_pickles_and_state_dicts_are_unpacked_too(tmp_path):
    parts, W = bitsandbytes(codes_of(4, 8, 32), 64, nested=256)
    tensors = {f"{M}{name}": part for name, part in parts.items()}
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    for given in (tmp_path, tensors):
        close(open_base(given).source.tensor(K), W)


def test_a_weight_tied_while_packed_stays_tied(tmp_path):
    parts, _ = bitsandbytes(codes_of(4, 8, 32), 64)
    tensors = {f"{stem}{name}": part for stem in ("model.embed_tokens", "lm_head") for name, part in parts.items()}
    with open_pairs(tensors, tensors) as pairs:
        assert pairs.keys == ("model.embed_tokens.weight",)
        assert dict(pairs.skipped)["lm_head.weight"] == "tied: it shares its storage with 'model.embed_tokens.weight'"


def test_inspect_says_what_is_packed_and_that_it_is_read(oracle):
    for name in CASES.split():
        found = inspect(oracle / name / "base")
        assert found.readable, name
        assert any("packed by" in said and "dequantised" in said for said in found.suspicious), name


# What is broken or not read


def without(parts, *names):
    return {name: part for name, part in parts.items() if name not in names}


def with_state(parts, **changes):
    name = ".weight.quant_state.bitsandbytes__nf4"
    state = {**json.loads(bytes(parts[name].tolist())), **changes}
    return {**parts, name: torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8)}


NF4 = bitsandbytes(codes_of(4, 8, 32), 64, nested=256)[0]
GPTQ, GPTQ_CONFIG = gptq(4, version=1)[0], declared("gptq", bits=4, group_size=32)
AWQ, AWQ_CONFIG = awq()[0], declared("awq", bits=4, version="gemm", group_size=32)
FP8 = {".weight": float8(64, 64), ".weight_scale_inv": floats_of(2, 2)}
INT4 = {
    ".weight_packed": torch.zeros(8, 8).int(),
    ".weight_scale": floats_of(8, 2),
    ".weight_shape": torch.tensor([8, 64]),
}
INT4_CONFIG = compressed("pack-quantized", num_bits=4, type="int", symmetric=True, group_size=32)
MLX = {".weight": torch.zeros(8, 8, dtype=torch.uint32), ".scales": floats_of(8, 2), ".biases": floats_of(8, 2)}
AO = {f"{M}._weight_qdata": torch.zeros(8, 32).to(torch.int8), f"{M}._weight_scale": floats_of(8, 1)}
HUGE = [2**40, 2**40]
BROKEN = {
    "no map": (without(NF4, ".weight.quant_map"), {}, "its quant_map is missing"),
    "no absmax": (without(NF4, ".weight.absmax"), {}, "its absmax is missing"),
    "no nested scales": (without(NF4, ".weight.nested_absmax"), {}, "its nested_absmax is missing"),
    "no state": (without(NF4, ".weight.quant_state.bitsandbytes__nf4"), {}, "stored packed by bitsandbytes 4-bit"),
    "no codes": (without(NF4, ".weight"), {}, "its weight is missing"),
    "a state that is no JSON": ({**NF4, ".weight.quant_state.bitsandbytes__nf4": torch.zeros(9).byte()}, {}, "not valid JSON"),
    "a state as large as a weight": ({**NF4, ".weight.quant_state.bitsandbytes__nf4": torch.zeros(2**17).byte()}, {}, "too large"),
    "a huge shape": (with_state(NF4, shape=HUGE), {}, "are not the codes of"),
    "a negative shape": (with_state(NF4, shape=[-8, -32]), {}, r"the shape \[-8, -32\]"),
    "a shape that is text": (with_state(NF4, shape="8x32"), {}, "the shape 8x32"),
    "a huge blocksize of scales": (with_state(NF4, nested_blocksize=2**61), {}, None),
    "a blocksize of 0": (with_state(NF4, blocksize=0), {}, "no blocksize"),
    "another blocksize": (with_state(NF4, blocksize=32), {}, "are not the 8 of runs of 32"),
    "an offset that is no number": (with_state(NF4, nested_offset="x"), {}, "no nested_offset"),
    "an endless offset": (with_state(NF4, nested_offset=10**400), {}, "nested_offset|not valid JSON"),
    "another type": (with_state(NF4, quant_type="af4"), {}, "the type af4"),
    "int8 with few rows": ({".weight": torch.zeros(6, 8).to(torch.int8), ".SCB": floats_of(5)}, {}, "one number for 6 rows"),
    "gptq that nobody declares": (GPTQ, {}, "whether its zeros are stored minus 1.*Put the config.json"),
    "gptq in marlin": (GPTQ, declared("gptq", bits=4, checkpoint_format="marlin"), "in the format marlin"),
    "gptq in planes": (GPTQ, declared("gptq", bits=3, checkpoint_format="gptq_p"), "in the format gptq_p"),
    "gptq without scales": (without(GPTQ, ".scales"), GPTQ_CONFIG, "its scales is missing"),
    "gptq without zeros": (without(GPTQ, ".qzeros"), GPTQ_CONFIG, "its qzeros is missing"),
    "gptq of other groups": ({**without(GPTQ, ".g_idx"), ".scales": floats_of(3, 32)}, GPTQ_CONFIG, "of 2 groups and its scales of 3"),
    "gptq of unequal groups": (without(GPTQ, ".g_idx"), declared("gptq", bits=4, group_size=16), "64 inputs make 4 of 16"),
    "gptq of 5 bits": ({**GPTQ, ".qzeros": torch.zeros(2, 5).int()}, GPTQ_CONFIG, "its qzeros are 5 words for 32 outputs"),
    "gptq with a short g_idx": ({**GPTQ, ".g_idx": torch.zeros(63).int()}, GPTQ_CONFIG, r"its g_idx is \[63\]"),
    "awq of other widths": ({**AWQ, ".qweight": torch.zeros(64, 3).int()}, AWQ_CONFIG, "for 32 outputs"),
    "awq without zeros": (without(AWQ, ".qzeros"), AWQ_CONFIG, "its qzeros is missing"),
    "awq of other groups": (AWQ, declared("awq", bits=4, group_size=16), "its groups have 32 inputs"),
    "awq of 8 bits": (AWQ, declared("awq", bits=8), "in 8 bits"),
    "integers of another method": (GPTQ, declared("eetq"), "stored packed by eetq"),
    "fp8 in undeclared blocks": (FP8, {}, "weight_block_size.*Put the config.json"),
    "fp8 in other blocks": (FP8, declared("fp8", weight_block_size=[16, 16]), r"\[16, 16\] make \[4, 4\]"),
    "fp8 of a rank without sense": ({".weight": float8(4), ".weight_scale_inv": floats_of(1)}, {}, "its weight is"),
    "fp8 scaled by whom": ({".weight": float8(4, 4), ".weight_scale": floats_of(1)}, {}, "scaled integers or fp8"),
    "fp8 scaled otherwise": ({".weight": float8(4, 4), ".weight_scale": floats_of(2)}, declared("fp8"), "one a row of"),
    "fp8 without its scale": ({".weight": float8(4, 4)}, declared("fp8"), "stored packed by fp8"),
    "integers of a huge shape": ({**INT4, ".weight_shape": torch.tensor(HUGE)}, INT4_CONFIG, "its words are"),
    "integers without a shape": (without(INT4, ".weight_shape"), INT4_CONFIG, "its weight_shape is missing"),
    "integers without a scale": (without(INT4, ".weight_scale"), INT4_CONFIG, "its weight_scale is missing"),
    "integers of no bits": (INT4, declared("compressed-tensors"), "no num_bits"),
    "integers of other bits": (INT4, compressed("pack-quantized", num_bits=8), "in 0 of the ways"),
    "integers of other groups": ({**INT4, ".weight_scale": floats_of(8, 3)}, INT4_CONFIG, "0 ways fit"),
    "a sparse format": (INT4, declared("compressed-tensors", sparsity_config={"format": "sparse-24-bitmask"}), "sparse-24-bitmask"),
    "small floats of other scales": (
        {".weight_packed": torch.zeros(8, 32).byte(), ".weight_scale": torch.zeros(8, 3).byte()}, INT4_CONFIG, "for bytes",
    ),
    "experts of other scales": ({"_blocks": torch.zeros(2, 8, 2, 16).byte(), "_scales": torch.zeros(2, 8, 3).byte()}, {}, "MXFP4"),
    "experts without scales": ({"_blocks": torch.zeros(2, 8, 2, 16).byte()}, {}, "stored packed by MXFP4"),
    "torchao without its class": (AO, declared("torchao"), "does not say of which class"),
    "torchao of an unread class": (AO, declared("torchao"), "as Int4TilePackedTo4dTensor", described("Int4TilePackedTo4dTensor", [1, 32], [])),
    "torchao of other blocks": (AO, declared("torchao"), r"not \[8, 2\]", described("Int8Tensor", [1, 16], [])),
    "torchao of no blocks": (AO, declared("torchao"), "its blocks are None", described("Int8Tensor", None, [])),
    "hqq of another shape": ({**hqq(4, 1, 8)[0], ".shape": torch.tensor([32, 41])}, {}, r"not \[32, 41\] in 4 bits"),
    "hqq of a huge shape": ({**hqq(4, 1, 8)[0], ".shape": torch.tensor(HUGE)}, {}, "in 4 bits"),
    "hqq of other scales": ({**hqq(4, 1, 8)[0], ".scale": floats_of(3, 1)}, {}, "its scale is"),
    "hqq of another packing": ({**hqq(4, 1, 8)[0], ".packing": torch.zeros(3).byte()}, {}, "HQQ as"),
    "hqq without a zero": (without(hqq(4, 1, 8)[0], ".zero"), {}, "its zero is missing"),
    "quanto without a shift": (without(quanto(4, 8, 16, 16)[0], ".weight._shift"), {}, "its shift is missing"),
    "quanto of unknown bits": (quanto(4, 1, 16, 16)[0], {}, "1 rows of bytes hold 1 groups in 2 ways"),
    "quanto of other rows": ({".weight._data": torch.zeros(4, 4).to(torch.int8), ".weight._scale": floats_of(3, 1)}, {}, "its scale is"),
    "bitnet of two scales": ({".weight": torch.zeros(4, 4).byte(), ".weight_scale": floats_of(2)}, declared("bitnet"), "not one number"),
    "bitnet of another kind": ({".weight": torch.zeros(4, 4).byte(), ".weight_scale": floats_of(1)}, declared("bitnet", linear_class="x"), "layers x"),
    "mlx that nobody declares": (MLX, {}, "that says its bits.*Put the config.json"),
    "mlx of other bits": (MLX, {"quantization": {"bits": 8, "group_size": 32}}, "no 8 bits in groups of 32"),
    "mlx of 7 bits": (MLX, {"quantization": {"bits": 7, "group_size": 32}}, "7 bits"),
    "mlx of another mode": (MLX, {"quantization": {"bits": 4, "group_size": 32, "mode": "odd"}}, "in the mode odd"),
    "mlx without biases": (without(MLX, ".biases"), {"quantization": {"bits": 4, "group_size": 32}}, "its biases is missing"),
    "stored twice": ({**GPTQ, ".weight": torch.zeros(32, 64)}, GPTQ_CONFIG, "is stored twice"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_broken_or_not_read_is_refused_in_one_sentence(tmp_path, name):
    parts, config, message, *metadata = BROKEN[name]
    named = {(f"{M}{key}" if key.startswith(("_", ".")) else key): part for key, part in parts.items()}
    folder = write(tmp_path, named, config, *metadata)
    if message is None:
        open_base(folder).source.tensor(K)  # absurd, and harmless: nothing is as large as it says
        return
    with pytest.raises(InputError, match=message) as caught:
        open_base(folder)
    said = str(caught.value)
    assert M in said or "model.layers" in said
    assert said.endswith(".")
    assert "\n" not in said
    assert len(said) < 400


def test_an_order_that_leaves_groups_out_is_refused_when_it_is_read(unpack):
    with pytest.raises(FormatError, match="its g_idx does not use its 2 groups"):
        unpack({**GPTQ, ".g_idx": torch.zeros(64).int()}, GPTQ_CONFIG)
    with pytest.raises(FormatError, match="its g_idx does not use its 2 groups"):
        unpack({**GPTQ, ".g_idx": torch.arange(64).int()}, GPTQ_CONFIG)


def test_masks_beside_a_declared_quantisation_are_no_packed_weights(unpack):
    parts, W = gptq(4, version=1)
    mask = {"h.0.attn.bias": torch.ones(1, 1, 4, 4).byte(), "position_ids": torch.arange(4).reshape(1, 4)}
    close(unpack({**parts, **mask}, GPTQ_CONFIG)[0], W)
