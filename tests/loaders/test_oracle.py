"""Cases made with the library that defines each method: every one is read right, or refused by name.

Truth is the true dW by the base's tensor names, made in float64 with no line of this package.
"""

import json

import pytest
import torch
from safetensors.torch import load_file

from spectra import open_pairs
from spectra.errors import SpectraError

# Must be right. A case with several tuned models lists them as `case/folder=truth`.
RIGHT = {
    "full": """full_bin_sharded full_compile_prefix full_lowrank_update full_pt_nested_ddp full_pt_state_dict
        full_safetensors old_bin_sharded_tied_t4 tt_full tt_lora/finetuned=truth""",
    "LoRA": """lora_all_linear_exclude lora_alora lora_bias_all lora_conv2d lora_dora lora_dora_conv2d lora_embedding
        lora_fa_optimizer lora_gpt2_conv1d lora_llama_bf16_all lora_llama_fp16_all lora_llama_fp32
        lora_llama_sharded_base lora_longlora lora_lora_bias lora_modules_to_save_head lora_orthogonal
        lora_rank_alpha_pattern lora_resized_vocab lora_rslora lora_tied_embedding old_lora_rank_alpha_pattern
        old_mixtral_per_expert tt_lora/adapter=truth""",
    "LoRA on a base of its own, or converted": """lora_loftq lora_loraga_converted lora_olora_converted
        lora_pissa_converted lora_pissa_residual_base""",
    "several adapters": """lora_multi_adapter/adapter=truth lora_multi_adapter/adapter/second=truth_second
        lora_slora_fleet/adapters/user-0=truth lora_slora_fleet/adapters/user-1=truth_1
        lora_slora_fleet/adapters/user-2=truth_2 lora_weighted_combinations/adapter/cat=truth
        lora_weighted_combinations/adapter/linear=truth_linear""",
}
IN_SCOPE = [entry for entries in RIGHT.values() for entry in entries.split()]

# Must be refused, with this word in the sentence, or be right.
REFUSED = {
    "ADALORA": "adalora_conv2d adalora_full_rank",
    "ADAMSS": "adamss",
    "ADAPTION_PROMPT": "adaption_prompt",
    "AdapterHub": """ah_compacter ah_dora_bert ah_dvora_bert ah_ia3_bert ah_lora_bert ah_lora_gpt2_fused_qkv ah_loreft
        ah_mtl_lora ah_noreft ah_par_bn ah_prefix_tuning ah_seq_bn_inv ah_seq_bn_pfeiffer""",
    "AWQ": "awq_gemm",
    "BEFT": "beft",
    "bitnet": "bitnet_autobitlinear",
    "BOFT": "boft_m1",
    "C3A": "c3a",
    "cloneofsimo": "cloneofsimo_safeloras",
    "CPT": "cpt",
    "compressed-tensors": "ct_fp8_block_ragged ct_fp8_tensor ct_mxfp4 ct_pack_int4_group ct_pack_int8_channel",
    "DEFT": "deft_para",
    "DELORA": "delora",
    "unet": """diffusers_lora_no_metadata_old_keys diffusers_lora_save_lora_weights kohya_dylora kohya_lora
        kohya_oft""",
    "FOURIERFT": "fourierft",
    "fp8": "fp8_block_deepseek",
    "distcp": "full_dcp_fsdp2_nested full_dcp_single_no_dist",
    "GGUF": """gguf_all_types gguf_bf16 gguf_f16 gguf_q4_k_m gguf_f32_lora gguf_f32_lora_embedding
        gguf_q8_0_lora_f16""",
    "GLORA": "glora_lora",
    "GPTQ": "gptq_3bit_v1 gptq_4bit_v1_asym_actorder gptq_4bit_v1_sym gptq_8bit_v1",
    "GRALORA": "gralora",
    "HIRA": "hira",
    "HQQ": "hqq_4bit_axis1",
    "HRA": "hra hra_conv2d",
    "IA3": "ia3",
    "LILY": "lily",
    "LN_TUNING": "ln_tuning",
    "LOHA": "loha loha_conv2d",
    "LOKR": "lokr lokr_conv2d lokr_full_factors",
    "layer_replication": "lora_layer_replication",
    "target_parameters": """lora_moe_gptoss_target_parameters lora_moe_mixtral_one_param
        lora_moe_mixtral_target_parameters old_moe_gptoss_target_parameters""",
    "pissa": "lora_pissa_raw",
    "trainable_token_indices": "lora_trainable_tokens",
    "LoRA-XS": "lora_xs",
    "loralib": "loralib_mixed",
    "LoRMA": "lorma_none_pre lorma_pi_pre lorma_plus_pre",
    "LyCORIS": """lycoris_boft lycoris_diag_oft lycoris_dora_on_output lycoris_dylora lycoris_full lycoris_glora
        lycoris_ia3 lycoris_locon lycoris_locon_pt_file lycoris_loha lycoris_lokr lycoris_lokr_full
        lycoris_train_norm""",
    "MISS": "miss miss_mini",
    "MLX": "mlx_full mlx_lora mlx_moe_switch mlx_qlora_4bit",
    "MXFP4": "mxfp4_gptoss",
    "OFT": "oft_cayley_exact oft_cayley_neumann oft_embedding old_oft_legacy old_oft_legacy_block_share",
    "BONE": "old_bone",
    "OSF": "osf",
    "P_TUNING": "p_tuning",
    "POLY": "poly",
    "PREFIX_TUNING": "prefix_tuning",
    "PROMPT_TUNING": "prompt_tuning",
    "QA-LoRA": "qalora_gptq_probe",
    "bitsandbytes": "qlora_int8 qlora_nf4_double_quant qlora_nf4_single_quant",
    "quanto": "quanto_qint4",
    "RANDLORA": "randlora",
    "ROAD": "road_1",
    "SHIRA": "shira",
    "SUPERTUNING": "supertuning",
    "TINYLORA": "tinylora",
    "torchao": "torchao_int8 torchao_intx4_group",
    "TRAINABLE_TOKENS": "trainable_tokens",
    "UNILORA": "unilora",
    "VBLORA": "vblora",
    "VERA": "vera",
    "WAVEFT": "waveft_db1 waveft_direct",
    "XLORA": "xlora",
}
OUT_OF_SCOPE = [(case, word) for word, cases in REFUSED.items() for case in cases.split()]


def parts_of(entry):
    """Split `case/folder=truth` into the case, the tuned folder and the name of its truth."""
    path, _, truth = entry.partition("=")
    case, _, folder = path.partition("/")
    return case, folder, truth or "truth"


def tuned_folder(case):
    """The tuned side of a case; a case without one is a base alone, and stands for itself."""
    return next((case / name for name in ("adapter", "finetuned") if (case / name).exists()), case / "base")


def require_right(case, pairs, truth):
    """Assert that every matrix of the truth is there, right in the stored layout, and nothing else is changed."""
    tolerance = json.loads((case / "case.json").read_text())["tolerance"]
    true = {key: value.double() for key, value in load_file(case / f"{truth}.safetensors").items() if value.ndim > 1}
    skipped = dict(pairs.skipped)
    found = {pair.key: pair.to_stored(pair.update.dense()).double() for pair in pairs}
    for key, value in found.items():
        expected = true.get(key, torch.zeros_like(value))
        # dW is handed out in float32: half a unit in its last place, 2^-24, comes on top of the case's tolerance.
        allowed = tolerance["atol"] + (tolerance["rtol"] + 2.0**-24) * expected.abs()
        assert value.shape == expected.shape, key
        assert bool(((value - expected).abs() <= allowed).all()), f"{key}: off by {(value - expected).abs().max():.2e}"
    for key in true.keys() - found.keys():
        same = [other for other in found if true.get(other) is not None and torch.equal(true[other], true[key])]
        assert not true[key].any() or (skipped.get(key, "").startswith("tied") and same), f"{key} is missing"


@pytest.mark.parametrize("entry", IN_SCOPE)
def test_in_scope_is_right(oracle, entry):
    name, folder, truth = parts_of(entry)
    case = oracle / name
    with open_pairs(case / "base", case / folder if folder else tuned_folder(case)) as pairs:
        require_right(case, pairs, truth)


@pytest.mark.parametrize("entry", IN_SCOPE)
def test_base_and_factors_agree_with_the_files(oracle, entry):
    name, folder, _ = parts_of(entry)
    case = oracle / name
    stored = {key: value for file in (case / "base").glob("*.safetensors") for key, value in load_file(file).items()}
    with open_pairs(case / "base", case / folder if folder else tuned_folder(case)) as pairs:
        for pair in pairs:
            if stored:
                assert torch.equal(pair.to_stored(pair.base), stored[pair.key].float()[: pair.layout.stored_shape[0]])
            if pair.update.factors is not None:
                B, A = pair.update.factors
                torch.testing.assert_close(B @ A, pair.update.dense())


@pytest.mark.parametrize(
    "entry", [entry for entry in IN_SCOPE if entry.startswith(("lora_", "old_lora", "old_mixtral"))]
)
def test_every_tensor_of_an_adapter_is_used_or_skipped(oracle, entry):
    name, folder, _ = parts_of(entry)
    case = oracle / name
    with open_pairs(case / "base", case / folder if folder else tuned_folder(case)) as pairs:
        tensors = pairs.tuned_header.tensors
        used = sum(pair.update_storage.parameters for pair in pairs)
        left_out = dict(pairs.skipped)
    assert len(left_out) == len(pairs.skipped)
    assert used + sum(tensors[key].parameters for key in left_out) == sum(info.parameters for info in tensors.values())


@pytest.mark.parametrize(("name", "word"), OUT_OF_SCOPE, ids=[name for name, _ in OUT_OF_SCOPE])
def test_out_of_scope_is_refused_by_name_or_right(oracle, name, word):
    case = oracle / name
    try:
        with open_pairs(case / "base", tuned_folder(case)) as pairs:
            require_right(case, pairs, "truth")
    except SpectraError as refusal:
        assert word.lower() in str(refusal).lower()  # noqa: PT017 - or it is right


def test_every_case_of_the_archive_is_judged(oracle):
    judged = {parts_of(entry)[0] for entry in IN_SCOPE} | {name for name, _ in OUT_OF_SCOPE}
    assert judged == {folder.name for folder in oracle.iterdir()}
