"""Cases made with the library that defines each method: every one is read right, or refused by name.

Truth is the true dW by the base's tensor names, made in float64 with no line of this package.
"""

import pytest
import torch
from safetensors.torch import load_file

from spectra import open_pairs
from spectra.errors import SpectraError
from spectra.loaders.base import open_base
from spectra.loaders.replication import layers_of

# Must be right. A case with several tuned models lists them as `case/folder=truth`.
RIGHT = {
    "full": """full_bin_sharded full_compile_prefix full_dcp_fsdp2_nested full_dcp_single_no_dist
        full_lowrank_update full_pt_nested_ddp full_pt_state_dict full_safetensors old_bin_sharded_tied_t4 tt_full tt_lora/finetuned=truth""",
    "LoRA": """lora_all_linear_exclude lora_alora lora_bias_all lora_conv2d lora_dora lora_dora_conv2d lora_embedding
        lora_fa_optimizer lora_gpt2_conv1d lora_llama_bf16_all lora_llama_fp16_all lora_llama_fp32
        lora_llama_sharded_base lora_longlora lora_lora_bias lora_modules_to_save_head lora_orthogonal
        lora_rank_alpha_pattern lora_resized_vocab lora_rslora lora_tied_embedding old_lora_rank_alpha_pattern
        old_mixtral_per_expert tt_lora/adapter=truth""",
    "LoRA on a base of its own, or converted": """lora_loftq lora_loraga_converted lora_olora_converted
        lora_pissa_converted lora_pissa_residual_base""",
    "options of LoRA": "lora_layer_replication lora_pissa_raw qalora_gptq_probe",
    "experts in one parameter": """lora_moe_gptoss_target_parameters lora_moe_mixtral_one_param
        lora_moe_mixtral_target_parameters old_moe_gptoss_target_parameters""",
    "products of their own kind": """adalora_conv2d adalora_full_rank boft_m1 hra hra_conv2d ia3 loha loha_conv2d lokr
        lokr_conv2d lokr_full_factors lora_xs miss miss_mini oft_cayley_exact oft_cayley_neumann oft_embedding old_bone
        old_oft_legacy old_oft_legacy_block_share road_1 vera""",
    "transforms, entries and rows": """adamss c3a deft_para delora fourierft glora_lora gralora hira lora_trainable_tokens
        osf randlora shira supertuning tinylora trainable_tokens unilora vblora waveft_db1 waveft_direct""",
    "a base in GGUF": "gguf_f32_lora gguf_f32_lora_embedding gguf_q8_0_lora_f16",
    "a packed base": """awq_gemm bitnet_autobitlinear ct_fp8_block_ragged ct_fp8_tensor ct_mxfp4 ct_pack_int4_group
        ct_pack_int8_channel fp8_block_deepseek gptq_3bit_v1 gptq_4bit_v1_asym_actorder gptq_4bit_v1_sym gptq_8bit_v1
        hqq_4bit_axis1 mlx_qlora_4bit mxfp4_gptoss qlora_int8 qlora_nf4_double_quant qlora_nf4_single_quant
        quanto_qint4 torchao_int8 torchao_intx4_group""",
    "image models": """cloneofsimo_safeloras diffusers_lora_no_metadata_old_keys diffusers_lora_save_lora_weights
        kohya_dylora kohya_lora kohya_oft lycoris_boft lycoris_diag_oft lycoris_dora_on_output lycoris_dylora
        lycoris_full lycoris_glora lycoris_ia3 lycoris_locon lycoris_locon_pt_file lycoris_loha lycoris_lokr
        lycoris_lokr_full lycoris_train_norm""",
    "dialects of language models": """ah_dora_bert ah_dvora_bert ah_ia3_bert ah_lora_bert ah_lora_gpt2_fused_qkv
        loralib_mixed lorma_none_pre lorma_pi_pre lorma_plus_pre mlx_full mlx_lora mlx_moe_switch""",
    "several adapters": """lora_multi_adapter/adapter=truth lora_multi_adapter/adapter/second=truth_second
        lora_slora_fleet/adapters/user-0=truth lora_slora_fleet/adapters/user-1=truth_1
        lora_slora_fleet/adapters/user-2=truth_2 lora_weighted_combinations/adapter/cat=truth
        lora_weighted_combinations/adapter/linear=truth_linear""",
}
IN_SCOPE = [entry for entries in RIGHT.values() for entry in entries.split()]

# A base alone, whose every matrix must be what its library makes of it.
BASES = ["gguf_all_types", "gguf_bf16", "gguf_f16", "gguf_q4_k_m"]

# Must be refused, with this word in the sentence, or be right.
REFUSED = {
    "ADAPTION_PROMPT": "adaption_prompt",
    "AdapterHub": """ah_compacter ah_loreft ah_mtl_lora ah_noreft ah_par_bn ah_prefix_tuning ah_seq_bn_inv
        ah_seq_bn_pfeiffer""",
    "BEFT": "beft",
    "CPT": "cpt",
    "LILY": "lily",
    "LN_TUNING": "ln_tuning",
    "P_TUNING": "p_tuning",
    "POLY": "poly",
    "PREFIX_TUNING": "prefix_tuning",
    "PROMPT_TUNING": "prompt_tuning",
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


@pytest.mark.parametrize("entry", IN_SCOPE)
def test_in_scope_is_right(oracle, require_right, entry):
    name, folder, truth = parts_of(entry)
    case = oracle / name
    with open_pairs(case / "base", case / folder if folder else tuned_folder(case)) as pairs:
        require_right(case, pairs, truth)


@pytest.mark.parametrize("entry", IN_SCOPE)
def test_base_and_factors_agree_with_the_files(oracle, entry):
    name, folder, _ = parts_of(entry)
    case = oracle / name
    stored = {key: value for file in (case / "base").glob("*.safetensors") for key, value in load_file(file).items()}
    packed = (case / "truth_base.safetensors").exists()  # test_quantization compares these
    with open_pairs(case / "base", case / folder if folder else tuned_folder(case)) as pairs:
        for pair in pairs:
            if stored and not packed:
                whole = stored[layers_of(pairs.base).get(pair.key, pair.key)]
                whole = whole if pair.index is None else whole[pair.index]
                assert torch.equal(pair.to_stored(pair.base), whole.float()[: pair.layout.stored_shape[0]])
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
def test_out_of_scope_is_refused_by_name_or_right(oracle, require_right, name, word):
    case = oracle / name
    try:
        with open_pairs(case / "base", tuned_folder(case)) as pairs:
            require_right(case, pairs, "truth")
    except SpectraError as refusal:
        assert word.lower() in str(refusal).lower()  # noqa: PT017 - or it is right


@pytest.mark.parametrize("name", BASES)
def test_a_base_is_dequantised_right(oracle, name):
    case = oracle / name
    base = open_base(case / "base")
    own, of_the_hub = (case / f"{truth}.safetensors" for truth in ("truth_base", "truth_base_hf"))
    assert own.exists() or of_the_hub.exists()
    for key in (key for key in base.tensors if base.reason_against(key) is None):
        matrix = base.matrix(key)
        if own.exists():
            assert torch.equal(base.layout(key).to_stored(matrix), load_file(own)[key].float()), key
        if of_the_hub.exists():
            assert torch.equal(matrix, load_file(of_the_hub)[base.name(key)].float()), key


def test_every_case_of_the_archive_is_judged(oracle):
    judged = {parts_of(entry)[0] for entry in IN_SCOPE} | {name for name, _ in OUT_OF_SCOPE} | set(BASES)
    assert judged == {folder.name for folder in oracle.iterdir()}
