"""SP402: DoRA whose magnitude vector hardly moved."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from spectra.analysis.diagnosis import diagnose
from spectra.findings.finding import Evidence
from spectra.findings.trivial_magnitude import TRIVIAL_MAGNITUDE


@pytest.fixture
def dora(tensors, lora):
    """Write a DoRA adapter whose magnitude is the rows' own length times `by`, an entry a row."""

    def write(by, *, dtype=torch.float32, **options):
        folder = lora(use_dora=True, **options)
        path = folder / "adapter_model.safetensors"
        kept = load_file(path)
        for name in list(kept):
            if name.endswith("lora_A.weight"):
                module = name.removesuffix(".lora_A.weight")
                W0 = tensors[module.removeprefix("base_model.model.") + ".weight"]
                kept[f"{module}.lora_magnitude_vector"] = W0.norm(dim=1) * by(len(W0))
        save_file({name: tensor.to(dtype) for name, tensor in kept.items()}, path)
        return folder

    return write


def untouched(rows):
    return torch.ones(rows)


def test_a_magnitude_that_stayed_at_its_start_is_a_remark(base, dora, raised):
    (found,) = raised("SP402", base, dora(untouched))
    assert (found.severity, found.numbers["rows"], found.numbers["dora"]) == ("info", 8, 8)
    assert found.numbers["largest"] < 1e-6


def test_rounding_of_the_stored_vector_is_no_training(base, dora, raised):
    adapter = dora(untouched, dtype=torch.bfloat16, strength=0.005)  # its rows turn by less than they are rounded
    (found,) = raised("SP402", base, adapter)
    assert found.numbers["largest"] ** 2 > 0.01 * 2 * found.numbers["median_dD"]
    assert found.numbers["largest"] <= 2**-8


def test_a_magnitude_that_moved_far_less_than_the_direction_is_trivial(base, dora, raised):
    """A row turns by 0.05 at a strength of 0.05; a tenth of that is 0.005."""
    assert len(raised("SP402", base, dora(lambda rows: 1 + torch.linspace(-0.003, 0.003, rows)))) == 1
    assert raised("SP402", base, dora(lambda rows: 1 + torch.linspace(-0.02, 0.02, rows))) == []


def test_one_row_that_changed_its_length_is_not_trivial(base, dora, raised):
    assert raised("SP402", base, dora(lambda rows: 1 + 0.1 * (torch.arange(rows) == 5))) == []


def test_plain_lora_and_full_fine_tunes_have_no_magnitude(base, lora, full, raised):
    assert raised("SP402", base, lora()) == []
    assert raised("SP402", base, full()) == []


@pytest.mark.parametrize("kind", ["low rank", "rescaled columns"])
def test_rows_whose_length_no_vector_sets_are_not_judged(kind, base, dora):
    report = diagnose(base, dora(untouched))
    rows = [replace(layer, update_kind=kind) for layer in report.rows]
    assert TRIVIAL_MAGNITUDE.check(Evidence(rows, report.info, 0.5)) == []


def test_an_adapter_that_hardly_trained_is_not_judged(base, dora, raised):
    assert raised("SP402", base, dora(untouched, strength=1e-4)) == []
