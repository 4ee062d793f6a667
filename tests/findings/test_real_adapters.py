"""On real adapters whose base is not at hand: what the findings say of the adapter alone is true of its file.

A random base of the right names and shapes stands in. Nothing is asked of findings that compare with it.
"""

import pytest
import torch
from safetensors.torch import load_file

import spectra
from spectra import testing

_OF_THE_BASE = ["SP103", "SP104", "SP2"]


def _unpickled(file):
    return torch.load(file, map_location="cpu", weights_only=True)


def stand_in(folder, tmp_path):
    """Write a base that the adapter of plain LoRA in `folder` fits."""
    generator = torch.Generator().manual_seed(0)
    file = next(file for file in folder.iterdir() if file.name.startswith("adapter_model."))
    load = load_file if file.suffix == ".safetensors" else _unpickled
    factors = {key.removeprefix("base_model.model."): tensor for key, tensor in load(file).items()}
    shapes = {
        key.replace("lora_B.", ""): (B.shape[0], factors[key.replace("lora_B", "lora_A")].shape[1])
        for key, B in factors.items()
        if ".lora_B." in key
    }
    weights = {key: 0.04 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    return testing.save_checkpoint(tmp_path / "base", weights, config={"model_type": "stand-in"})


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "peft/neurodx_custom",
            {"SP101": "warning", "SP302": "info"},
        ),  # B of every qkv is zero; 28 of 37 use 85 % of r
        ("peft/distilbert_imdb", {}),
        ("peft/bert_base_seqcls", {}),  # 4 of 24 matrices use 85 % of r
        ("peft/t5small_r16", {}),  # 13 of 36; 11 use a third of it
    ],
)
def test_what_is_said_of_the_adapter_alone_is_so(name, expected, real_data, tmp_path):
    folder = real_data / "adapters" / name
    found = spectra.diagnose(stand_in(folder, tmp_path), folder, ignore=_OF_THE_BASE).findings
    assert {finding.code: finding.severity for finding in found} == expected


def test_modules_that_training_passed_by_are_named(real_data, tmp_path):
    folder = real_data / "adapters" / "peft" / "neurodx_custom"
    (found,) = spectra.diagnose(stand_in(folder, tmp_path), folder, select=["SP101"]).findings
    assert found.message == "12 matrices of 49 did not change at all: attn.qkv."
