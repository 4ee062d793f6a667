"""Weights stored packed, and not as they should be: refused by the name of the scheme, never decomposed as bytes."""

import pytest
import torch

from spectra.errors import UnsupportedError
from spectra.loaders.pairing import open_pairs

W = "model.layers.0.self_attn.q_proj"


def packed(*shape, dtype=torch.uint8):
    return torch.zeros(shape, dtype=dtype)


SCHEMES = {
    "bitsandbytes 4-bit": (
        {
            f"{W}.weight": packed(128, 1),
            f"{W}.weight.absmax": torch.ones(4),
            f"{W}.weight.quant_map": torch.ones(16),
        },
        "bitsandbytes",
    ),
    "bitsandbytes int8": ({f"{W}.weight": packed(16, 16, dtype=torch.int8), f"{W}.SCB": torch.ones(15)}, "bitsandbytes int8"),
    "GPTQ": (
        {
            f"{W}.qweight": packed(2, 16, dtype=torch.int32),
            f"{W}.qzeros": packed(1, 2, dtype=torch.int32),
            f"{W}.scales": torch.ones(1, 16).half(),
            f"{W}.g_idx": packed(16, dtype=torch.int32),
        },
        "GPTQ",
    ),
    "AWQ": (
        {
            f"{W}.qweight": packed(16, 2, dtype=torch.int32),
            f"{W}.qzeros": packed(1, 3, dtype=torch.int32),
            f"{W}.scales": torch.ones(1, 16).half(),
        },
        "AWQ",
    ),
    "block fp8": (
        {f"{W}.weight": torch.zeros(16, 16).to(torch.float8_e4m3fn), f"{W}.weight_scale_inv": torch.ones(2, 1)},
        "fp8",
    ),
    "fp8 with a scale": (
        {f"{W}.weight": torch.zeros(16, 16).to(torch.float8_e4m3fn), f"{W}.weight_scale": torch.ones(1)},
        "fp8",
    ),
    "compressed-tensors": (
        {f"{W}.weight_packed": packed(16, 2, dtype=torch.int32), f"{W}.weight_scale": torch.ones(16, 1)},
        "compressed-tensors",
    ),
    "MXFP4": (
        {
            "model.layers.0.mlp.experts.down_proj_blocks": packed(2, 16, 1, 16),
            "model.layers.0.mlp.experts.down_proj_scales": packed(2, 15, 1),
        },
        "MXFP4",
    ),
    "HQQ": ({f"{W}.W_q": packed(8, 16), f"{W}.scale": torch.ones(16, 1)}, "HQQ"),
    "quanto": ({f"{W}.weight._data": packed(16, 16, dtype=torch.int8), f"{W}.weight._scale": torch.ones(15, 1)}, "quanto"),
}  # fmt: skip


@pytest.mark.parametrize(("tensors", "name"), SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("container", ["safetensors", "bin"])
def test_a_broken_packed_base_or_tuned_model_is_refused_by_its_scheme(
    tmp_path, base, craft, refused, tensors, name, container
):
    everything = {**craft.weights(seed=0, names=craft.names[1:]), **tensors}
    folder = craft.model(tmp_path / "p", everything)
    if container == "bin":
        torch.save(everything, tmp_path / "p" / "pytorch_model.bin")
        (tmp_path / "p" / "model.safetensors").unlink()
    for given in ((folder, base), (base, folder)):
        refused(lambda given=given: open_pairs(*given), "packed by", name, "model.layers.0.")


def test_the_scheme_is_named_as_the_configuration_does(tmp_path, base, craft, refused):
    config = {"quantization_config": {"quant_method": "gptq\x1b[31m"}}
    folder = craft.model(tmp_path / "p", SCHEMES["GPTQ"][0], config)
    refused(lambda: open_pairs(folder, base), "gptq\\x1b[31m", "unquantised", kind=UnsupportedError)


def test_what_a_file_says_of_its_packing_steers_no_terminal(tmp_path, base, craft, refused):
    tensors = {f"{W}\x1b[31m.qweight": packed(16, 2, dtype=torch.int32)}
    config = {"quantization_config": {"quant_method": "awq", "version": "gemv\x1b[31m\u202e"}}
    folder = craft.model(tmp_path / "p", tensors, config)
    refused(lambda: open_pairs(folder, base), "q_proj\\x1b[31m", "gemv\\x1b[31m\\u202e", kind=UnsupportedError)


def test_a_scheme_known_by_its_declaration_only_is_refused(tmp_path, base, craft, refused):
    config = {"quantization_config": {"quant_method": "squeezed"}}
    folder = craft.model(tmp_path / "p", {f"{W}.weight": packed(16, 4)}, config)
    refused(lambda: open_pairs(folder, base), "squeezed", kind=UnsupportedError)


def test_an_adapter_on_a_packed_base_is_refused_by_the_scheme(tmp_path, craft, refused):
    folder = craft.model(tmp_path / "p", SCHEMES["bitsandbytes 4-bit"][0])
    adapter = craft.adapter(tmp_path / "a", craft.factors((W,)))
    refused(lambda: open_pairs(folder, adapter), "bitsandbytes", kind=UnsupportedError)


def test_whole_numbers_beside_floats_are_skipped_not_decomposed(tmp_path, craft, diagnose):
    tensors = {**craft.weights(seed=0), "embeddings.position_ids": torch.arange(16).reshape(1, 16)}
    tuned = {key: tensor + 1 for key, tensor in tensors.items()}
    report = diagnose(craft.model(tmp_path / "b", tensors), craft.model(tmp_path / "t", tuned))
    assert len(report.rows) == 12
    assert "int64" in dict(report.skipped)["embeddings.position_ids"]


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.complex64, torch.float8_e4m3fn])
def test_a_tuned_weight_that_is_no_float_is_skipped_not_subtracted(tmp_path, base, craft, dtype):
    tuned = craft.weights(seed=1)
    tuned[craft.names[0]] = tuned[craft.names[0]].to(dtype)
    opened = open_pairs(base, craft.model(tmp_path / "t", tuned))
    assert craft.names[0] not in opened.keys
    assert str(dtype).removeprefix("torch.") in dict(opened.skipped)[craft.names[0]]


def test_ordinary_floats_under_a_packed_looking_name_are_read(tmp_path, craft, pairs):
    names = ("attention.W_q", "encoder.down_blocks", "layer.weight_packed")
    base = craft.model(tmp_path / "b", craft.weights(seed=0, names=names))
    assert len(pairs(base, craft.model(tmp_path / "t", craft.weights(seed=1, names=names)))) == 3
