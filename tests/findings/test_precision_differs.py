"""SP112: two sides stored in different precisions."""

from dataclasses import replace

import pytest
import torch

from spectra import testing
from spectra.analysis.diagnosis import diagnose
from spectra.findings.finding import Evidence
from spectra.findings.precision_differs import PRECISION_DIFFERS
from spectra.updates import Storage


def test_a_fine_tune_rounded_after_a_base_that_was_not_is_a_warning(base, full, raised):
    (found,) = raised("SP112", base, full(strength=1e-3, dtype=torch.bfloat16))
    assert found.severity == "warning"
    assert found.message.startswith(
        "The base is stored in float32 and the tuned model in bfloat16 in 30 of 30 matrices"
    )
    assert (found.numbers["base"], found.numbers["tuned"]) == ("float32", "bfloat16")


def test_its_noise_is_that_of_a_round_trip(tmp_path, tensors, base, raised):
    """Nothing was trained: all of dW is rounding."""
    tuned = {key: W.to(torch.bfloat16) for key, W in tensors.items()}
    (found,) = raised("SP112", base, testing.save_checkpoint(tmp_path / "rounded", tuned))
    assert found.numbers["median_noise"] == pytest.approx(1.0, abs=0.02)


def test_rounding_that_is_small_beside_the_update_is_a_remark(base, full, raised):
    (found,) = raised("SP112", base, full(strength=0.5, dtype=torch.float16))
    assert found.severity == "info"
    assert found.numbers["median_noise"] < 0.01


def test_a_finer_fine_tune_of_a_rounded_base_is_a_remark(tmp_path, tensors, full, raised):
    base = testing.save_checkpoint(tmp_path / "half", {key: W.to(torch.bfloat16) for key, W in tensors.items()})
    (found,) = raised("SP112", base, full(strength=1e-3))
    assert found.severity == "info"
    assert "adds nothing if training began from this very file" in found.message


def test_two_half_precisions_differ_too(tmp_path, tensors, full, raised):
    base = testing.save_checkpoint(tmp_path / "half", {key: W.to(torch.float16) for key, W in tensors.items()})
    (found,) = raised("SP112", base, full(strength=1e-3, dtype=torch.bfloat16))
    assert found.severity == "warning"


def test_a_quantised_fine_tune_is_a_warning(base, full):
    report = diagnose(base, full())
    packed = [replace(layer, update_storage=Storage("int8", 1, 1)) for layer in report.rows]
    (found,) = PRECISION_DIFFERS.check(Evidence(packed, report.info, 0.5))
    assert (found.severity, found.numbers) == ("warning", {"quantised": 30, "matrices": 30})
    assert "(int8)" in found.message


def test_one_precision_on_both_sides_and_adapters_are_none(tmp_path, tensors, base, full, lora, raised):
    half = testing.save_checkpoint(tmp_path / "half", {key: W.to(torch.bfloat16) for key, W in tensors.items()})
    assert raised("SP112", half, full(dtype=torch.bfloat16)) == []
    assert raised("SP112", half, lora()) == []
    assert raised("SP112", base, full(dtype=torch.float32)) == []
