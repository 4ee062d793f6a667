"""SP111: a base that is stored quantised, against adapters and against weights in full."""

import pytest
import torch

from spectra import testing

FP8 = {**testing.LLAMA_CONFIG, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}


@pytest.fixture
def packed(tmp_path, tensors):
    """The model as DeepSeek stores it: the matrices inside the blocks in float8, with a scale a block of 128 x 128."""
    found = {}
    for key, W in tensors.items():
        if W.ndim < 2 or "layers" not in key:
            found[key] = W
            continue
        rows, columns = (-(-extent // 128) for extent in W.shape)
        scale = float(W.abs().max()) / 448
        found[key] = (W / scale).to(torch.float8_e4m3fn)
        found[key.replace("weight", "weight_scale_inv")] = torch.full((rows, columns), scale)
    return testing.save_checkpoint(tmp_path / "packed", found, config=FP8)


def test_an_adapter_of_a_quantised_base_is_a_remark(packed, lora, raised):
    (found,) = raised("SP111", packed, lora())
    assert (found.severity, found.numbers) == ("info", {"scheme": "block fp8", "quantised": 8, "matrices": 8})
    assert found.message == (
        "The base is quantised (block fp8) in 8 of 8 matrices: the update is exact, and is compared with the "
        "dequantised weights."
    )


def test_a_full_fine_tune_against_a_quantised_base_is_a_warning(packed, full, raised):
    (found,) = raised("SP111", packed, full())
    assert (found.severity, found.numbers["quantised"], found.numbers["matrices"]) == ("warning", 28, 30)
    assert "holds the error of quantisation" in found.message
    assert all("layers" in key for key in found.keys)


def test_matrices_that_are_not_packed_are_not_concerned(packed, lora, raised):
    assert raised("SP111", packed, lora(targets=("lm_head",))) == []


def test_a_base_in_full_precision_is_none(base, lora, full, raised):
    assert raised("SP111", base, lora()) == []
    assert raised("SP111", base, full()) == []
