"""What `inspect` says of every dialect, of what is suspicious, and of files that are hostile or no weights at all."""

import io
import json
import os
import struct
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from spectra import open_pairs
from spectra.errors import FormatError, InputError, SpectraError, UnsafeFileError, UnsupportedError
from spectra.loaders import methods
from spectra.loaders.adapters.families import lora
from spectra.loaders.adapters.families.table import FAMILIES
from spectra.loaders.header import TensorInfo
from spectra.loaders.insertions import open_insertions
from spectra.loaders.inspection import refusals
from spectra.loaders.inspection.inspect import inspect

P = "base_model.model.model.layers.0.self_attn.q_proj"
LORA = {f"{P}.lora_A.weight": (4, 16), f"{P}.lora_B.weight": (24, 4)}
LORA_CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8}


def write(folder, tensors, config=None, *, name=None, metadata=None, dtype=np.float32):
    """Write tensors of these shapes (or these arrays) and their adapter_config.json; return the folder."""
    folder.mkdir(exist_ok=True, parents=True)
    arrays = {key: np.zeros(value, dtype) if isinstance(value, tuple) else value for key, value in tensors.items()}
    file = name or ("model.safetensors" if config is None else "adapter_model.safetensors")
    save_file(arrays, folder / file, metadata)
    if config is not None:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def peft(peft_type, **more):
    return {"peft_type": peft_type, "base_model_name_or_path": "base", **more}


def mlx(**parameters):
    return {"fine_tune_type": "lora", "model": "base", "lora_parameters": parameters}


HUB = {"model_class": "BertModel", "model_name": "base", "name": "task"}
FLUX = {
    "transformer.blocks.3.attn.to_q.lora_A.weight": (4, 16),
    "transformer.blocks.3.attn.to_q.lora_B.weight": (24, 4),
}
# name: (tensors, adapter_config.json, method, ranks, scalings, does diagnose read it)
DIALECTS = {
    "lora": (LORA, LORA_CONFIG, "LoRA (PEFT)", (4,), (2.0,), True),
    "rslora": (LORA, {**LORA_CONFIG, "use_rslora": True}, "rsLoRA (PEFT)", (4,), (4.0,), True),
    "dora": ({**LORA, f"{P}.lora_magnitude_vector": (24,)}, {**LORA_CONFIG, "use_dora": True}, "DoRA (PEFT)", (4,), (2.0,), True),
    "merged linear": (
        {f"{P}.lora_A.weight": (8, 16), f"{P}.lora_B.weight": (32, 4, 1)},
        {**LORA_CONFIG, "enable_lora": [True, False, True]},
        "LoRA, MergedLinear of PEFT 0.2 (enable_lora)", (8,), (2.0,), True,
    ),
    "lora-xs": ({**LORA, f"{P}_lora_latent_mapping.weight": (4, 4)}, LORA_CONFIG, "LoRA-XS", (4,), (2.0,), True),
    "adalora": (
        {f"{P}.lora_A": (12, 16), f"{P}.lora_B": (24, 12), f"{P}.lora_E": (12, 1)},
        peft("ADALORA", r=32, init_r=12, target_r=8, lora_alpha=24), "AdaLoRA (PEFT)", (12,), (2.0,), True,
    ),
    "loha": (
        {f"{P}.hada_w1_a": (24, 4), f"{P}.hada_w1_b": (4, 16), f"{P}.hada_w2_a": (24, 4), f"{P}.hada_w2_b": (4, 16)},
        peft("LOHA", r=4, alpha=8), "LoHa (PEFT)", (4,), (2.0,), True,
    ),
    "lokr": ({f"{P}.lokr_w1": (4, 4), f"{P}.lokr_w2_a": (6, 2), f"{P}.lokr_w2_b": (2, 4)}, peft("LOKR", r=2, alpha=4), "LoKr (PEFT)", (2,), (2.0,), True),
    "ia3": ({f"{P}.ia3_l": (24, 1)}, peft("IA3"), "IA3 (PEFT)", (), (), True),
    "oft": ({f"{P}.oft_R.weight": (4, 6)}, peft("OFT", use_cayley_neumann=True), "OFT (PEFT)", (), (), True),
    "vera": (
        {f"{P}.vera_lambda_b": (24,), f"{P}.vera_lambda_d": (4,)},
        peft("VERA", r=4, save_projection=False, projection_prng_key=0), "VeRA (PEFT)", (), (), True,
    ),
    "unilora": ({"base_model.unilora_theta_d": (64,)}, peft("UNILORA", r=4), "UniLoRA (PEFT)", (), (), False),
    "finegates": ({f"{P}.finegates_rows": (24,), f"{P}.finegates_columns": (16,)}, peft("FINEGATES"), "FineGates (PEFT)", (), (), True),
    "prompt": ({"prompt_embeddings": (20, 64)}, peft("PROMPT_TUNING"), "soft prompt or prefix (PEFT)", (), (), True),
    "a method of tomorrow": ({f"{P}.zeta": (3, 4)}, peft("ZETA"), "ZETA (PEFT)", (), (), False),
    "kohya": (
        {"lora_unet_up_blocks_1_attn1_to_q.lora_down.weight": (4, 16), "lora_unet_up_blocks_1_attn1_to_q.lora_up.weight": (24, 4),
         "lora_unet_up_blocks_1_attn1_to_q.alpha": np.array(2, np.float16)},
        None, "LoRA (kohya, LyCORIS)", (4,), (0.5,), True,
    ),
    "lycoris loha": (
        {"lora_unet_a_1_q.hada_w1_a": (24, 4), "lora_unet_a_1_q.hada_w1_b": (4, 16), "lora_unet_a_1_q.alpha": np.array(4, np.float32)},
        None, "LoHa (LyCORIS)", (4,), (1.0,), True,
    ),
    "lycoris lokr": ({"lycoris_a_1_q.lokr_w1": (4, 4), "lycoris_a_1_q.lokr_w2": (4, 4)}, None, "LoKr (LyCORIS)", (), (), True),
    "lycoris full": ({"lycoris_a_1_q.diff": (4, 4), "lycoris_a_1_q.diff_b": (4,)}, None, "full differences (LyCORIS)", (), (), True),
    "lycoris ia3": ({"lycoris_a_1_q.weight": (4,), "lycoris_a_1_q.on_input": ()}, None, "IA3 (LyCORIS)", (), (), True),
    "lycoris oft": ({"oft_unet_a_1_q.oft_blocks": (4, 8, 8)}, None, "OFT or BOFT (LyCORIS, kohya)", (), (), True),
    "diffusers": (FLUX, None, "LoRA (diffusers)", (4,), (), True),
    "diffusers, old": (
        {"mid_block.attentions.0.attn1.processor.to_q_lora.down.weight": (4, 16), "mid_block.attentions.0.attn1.processor.to_q_lora.up.weight": (24, 4)},
        None, "LoRA (diffusers, old)", (4,), (), True,
    ),
    "cloneofsimo": ({"unet:0:down": (4, 16), "unet:0:up": (24, 4)}, None, "LoRA (cloneofsimo)", (4,), (), True),
    "mlx": ({"model.layers.2.self_attn.q_proj.lora_a": (16, 4), "model.layers.2.self_attn.q_proj.lora_b": (4, 24)}, mlx(rank=4, scale=10.0), "LoRA (MLX)", (4,), (10.0,), True),
    "torchtune": ({"layers.2.attn.q_proj.lora_a.weight": (4, 16), "layers.2.attn.q_proj.lora_b.weight": (24, 4)}, None, "LoRA (torchtune)", (4,), (), False),
    "adapterhub lora": (
        {"bert.encoder.layer.1.attention.self.query.loras.task.lora_A": (4, 16), "bert.encoder.layer.1.attention.self.query.loras.task.lora_B": (24, 4)},
        {**HUB, "config": {"architecture": "lora", "alpha": 6, "r": 4}}, "LoRA family (AdapterHub)", (4,), (1.5,), True,
    ),
    "adapterhub bottleneck": (
        {"bert.encoder.layer.1.output.adapters.task.adapter_down.0.weight": (6, 24), "bert.encoder.layer.1.output.adapters.task.adapter_up.weight": (24, 6)},
        {**HUB, "config": {"reduction_factor": 4}}, "bottleneck adapter (AdapterHub)", (), (), True,
    ),
    "loralib": ({"h.0.q.lora_A": (4, 16), "h.0.q.lora_B": (24, 4)}, None, "LoRA (loralib)", (4,), (), False),
    "lora-vit": ({"w_a_000": (16, 4), "w_b_000": (4, 24)}, None, "LoRA (LoRA-ViT)", (4,), (), False),
    "lorma": ({"model.layers.0.q_proj.lorma_A": (4, 16), "model.layers.0.q_proj.lorma_B": (16, 4)}, None, "LoRMA", (4,), (), False),
    "megatron": (
        {"decoder.layers.0.self_attention.linear_qkv.adapter.linear_in.weight": (4, 16), "decoder.layers.0.self_attention.linear_qkv.adapter.linear_out.weight": (24, 4)},
        None, "LoRA (Megatron-Bridge, NeMo 2)", (4,), (), False,
    ),
    "textual inversion": ({"<cat-toy>": (768,)}, None, "textual inversion", (), (), False),
    "full": ({"model.layers.0.q_proj.weight": (24, 16), "model.norm.weight": (16,)}, None, "full checkpoint", (), (), True),
    "only vectors": ({"model.norm.weight": (16,)}, None, "full checkpoint", (), (), False),
}  # fmt: skip


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_dialect_is_named(tmp_path, dialect):
    tensors, config, method, ranks, scalings, readable = DIALECTS[dialect]
    found = inspect(write(tmp_path / "a", tensors, config))
    assert (found.method, found.ranks, found.scalings, found.readable) == (method, ranks, scalings, readable), (
        found.reason
    )
    assert found.reason
    assert found.tensors == len(tensors)
    if not readable and "vectors" not in dialect:
        assert (
            found.reason.startswith(("it is", "adapter_config.json is that of"))
            or method.partition(" (")[0] in found.reason
        )


# The other rows: a tensor name as the library writes it (those of PEFT behind its prefix), and the row's name.
NAMES = {
    "boft_s": "BOFT (PEFT)", "hra_u": "HRA (PEFT)", "road_theta": "RoAd (PEFT)", "pvera_lambda_b": "PVeRA (PEFT)",
    "fourierft_spectrum": "FourierFT (PEFT)", "waveft_spectrum": "WaveFT (PEFT)", "vblora_logits_A": "VB-LoRA (PEFT)",
    "randlora_lambda": "RandLoRA (PEFT)", "c3a_kernel": "C3A (PEFT)", "shira_weight": "SHiRA (PEFT)",
    "supertuning_values": "SuperTuning (PEFT)", "miss_block": "MiSS (PEFT)", "bone_block": "Bone (PEFT)",
    "glora_A.Xd": "GLoRA (PEFT)", "gralora_A": "GraLoRA (PEFT)", "delora_lambda": "DeLoRA (PEFT)",
    "hira_A": "HiRA (PEFT)", "psoft_R.weight": "PSOFT (PEFT)", "osf_svd_params.U_low": "OSF (PEFT)",
    "tinylora_A": "TinyLoRA (PEFT)", "adamss_A.0": "AdaMSS (PEFT)", "frod_lambda_l": "FRoD (PEFT)",
    "deft_P": "DEFT (PEFT)", "peanut_A": "PEANuT (PEFT)", "beft_bias": "BEFT (PEFT)",
    "ln_tuning_layers.weight": "LayerNorm tuning (PEFT)", "lily_A.weight": "Lily (PEFT)", "poly_lora_A": "Poly (PEFT)",
    "token_adapter.trainable_tokens_delta": "trainable tokens (PEFT)", "adaption_gate": "LLaMA-Adapter prompts (PEFT)",
    "xlora_classifier.inner.0.weight": "X-LoRA (PEFT)", "lora_magnitude_vector": "DoRA (PEFT)",
    "=bert.invertible_adapters.task.F.0.weight": "bottleneck adapter (AdapterHub)",
    "=bert.prefix_tuning.prefix_tunings.task.self_prefix.wte.weight": "prefix tuning (AdapterHub)",
    "=bert.encoder.layer.0.reft_layer.refts.task.units.0.learned_source.weight": "ReFT (AdapterHub)",
    "=lycoris_attn_to_q.a1.weight": "GLoRA (LyCORIS)", "=lora_unet_q.p_layer.weight": "T-LoRA (LyCORIS)",
    "=lycoris_attn_to_q.dora_scale": "DoRA (kohya, LyCORIS)",
    "=blk.0.attn_q.weight.lora_a": "LoRA (llama.cpp, GGUF)",
    "=model.decoder.layers.0.self_attention.adapter_layer.lora_kqv_adapter.linear_in.weight": "LoRA (NeMo)",
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_other_row_is_named(name):
    key = name[1:] if name.startswith("=") else f"{P}.{name}"
    assert [method.name for method in methods.recognise({key: TensorInfo("float32", (4, 4))}).methods] == [NAMES[name]]


def test_every_row_of_the_table_is_tried_here():
    kinds = [key[1:] if key.startswith("=") else f"{P}.{key}" for key in NAMES]
    kinds += [key for tensors, *_ in DIALECTS.values() for key in tensors]
    found = {method for key in kinds for method in methods.recognise({key: TensorInfo("float32", (4, 4))}).methods}
    assert [method.name for method in methods.METHODS if method not in found] == []


@pytest.mark.parametrize(
    "name",
    [
        "model.layers.0.mlp.experts.3.w1.weight", "h.0.attn.c_attn.weight", "encoder.block.0.layer.0.SelfAttention.q.weight",
        "model.layers.0.self_attn.qkv_proj.bias", "model.norm.weight", "adapter.weight", "vision.prompt.weight",
        "encoder.layers.0.adapter_layer.linear_1.weight", "unet.mid_block.attentions.0.proj_in.weight", "alpha", "w.alpha",
    ],
)  # fmt: skip
def test_weights_of_models_are_no_method(name):
    assert methods.recognise({name: TensorInfo("float32", (4, 4))}).methods == (methods.FULL,)


def test_a_readable_adapter_is_described_in_full(tmp_path):
    names = {
        f"base_model.model.model.layers.{block}.self_attn.{kind}"
        for block in (0, 1, 3)
        for kind in ("q_proj", "v_proj")
    }
    tensors = {
        f"{name}.lora_{part}.weight": shape for name in names for part, shape in (("A", (4, 16)), ("B", (24, 4)))
    }
    tensors["base_model.model.score.weight"] = (2, 24)
    config = peft(
        "LORA",
        r=4,
        lora_alpha=8,
        alpha_pattern={"v_proj": 12},
        bias="lora_only",
        modules_to_save=["score"],
        task_type="SEQ_CLS",
    )
    found = inspect(write(tmp_path / "a", tensors, config))
    assert (found.name, found.container, found.files, found.tensors) == ("a", "safetensors", 1, 13)
    assert found.parameters == 6 * 4 * (16 + 24) + 48
    assert found.bytes == 4 * found.parameters
    assert found.dtypes == {"float32": 13}
    assert (found.ranks, found.alphas, found.scalings, found.formula) == ((4,), (8.0, 12.0), (2.0, 3.0), "alpha / r")
    assert (found.targets, found.modules, found.base_named) == (("q_proj", "v_proj"), 6, "base")
    assert found.blocks == {"model.layers": (0, 1, 3)}
    said = " | ".join(found.facts)
    for words in (
        "task SEQ_CLS",
        "bias lora_only",
        "modules_to_save: score",
        "alpha_pattern: 1 entry (v_proj)",
        "stored in full: 1 tensor (1 matrix): score.weight",
    ):
        assert words in said
    assert found.suspicious == ()
    assert json.loads(json.dumps(found.to_dict(listed=True)))["listed"][0]["dtype"] == "float32"
    assert "rsLoRA" in inspect(write(tmp_path / "b", LORA, {**LORA_CONFIG, "use_rslora": True})).formula


def one(tmp_path, tensors, config, **keywords):
    """Inspect and return the one suspicious sentence."""
    found = inspect(write(tmp_path / "a", tensors, config, **keywords))
    assert len(found.suspicious) == 1, found.suspicious
    return found.suspicious[0]


def test_a_rank_that_is_not_the_configuration_s(tmp_path):
    assert one(tmp_path, LORA, {**LORA_CONFIG, "r": 2}) == "stored rank 4, but the configuration says 2 (1 module)"


def test_a_rank_above_the_matrix(tmp_path):
    tensors = {f"{P}.lora_A.weight": (4, 16), f"{P}.lora_B.weight": (2, 4)}
    assert "rank above the matrix's size" in one(tmp_path, tensors, LORA_CONFIG)


@pytest.mark.parametrize(("part", "letter"), [("lora_A", "A"), ("lora_B", "B")])
def test_a_factor_without_its_partner(tmp_path, part, letter):
    tensors = {**LORA, f"{P}2.lora_A.weight": (4, 16), f"{P}2.lora_B.weight": (24, 4)}
    del tensors[f"{P}2.{part}.weight"]
    found = inspect(write(tmp_path / "a", tensors, LORA_CONFIG))
    assert found.suspicious == (f"1 module without factor {letter}: model.layers.0.self_attn.q_proj2",)
    assert not found.readable


def test_factors_that_disagree(tmp_path):
    tensors = {f"{P}.lora_A.weight": (4, 16), f"{P}.lora_B.weight": (24, 3)}
    found = inspect(write(tmp_path / "a", tensors, LORA_CONFIG))
    assert "disagree about the rank" in found.suspicious[0]
    assert not found.readable


def test_several_adapters_in_one_file(tmp_path):
    tensors = {**LORA, f"{P}.lora_A.other.weight": (4, 16), f"{P}.lora_B.other.weight": (24, 4)}
    found = inspect(write(tmp_path / "a", tensors, LORA_CONFIG))
    assert found.suspicious == ("several adapters in one file: 'other', no name",)
    assert not found.readable


def test_several_naming_styles_in_one_file(tmp_path):
    found = inspect(write(tmp_path / "a", {**LORA, **FLUX}, LORA_CONFIG))
    assert "several methods or naming styles in one file: LoRA (diffusers), LoRA (PEFT)" in found.suspicious[0]
    assert not found.readable


def test_a_configuration_that_says_another_method(tmp_path):
    found = inspect(write(tmp_path / "a", {f"{P}.ia3_l": (24, 1)}, LORA_CONFIG))
    assert "adapter_config.json says LORA, the tensors are named as IA3 (PEFT)" in found.suspicious
    assert not found.readable


def test_an_adapter_without_its_configuration(tmp_path):
    write(tmp_path / "a", LORA, LORA_CONFIG)
    (tmp_path / "a" / "adapter_config.json").unlink()
    found = inspect(tmp_path / "a" / "adapter_model.safetensors")
    assert found.method == "LoRA (PEFT)"
    assert "without adapter_config.json" in found.suspicious[0]
    assert not found.readable
    assert "adapter_config.json is missing" in found.reason


def test_alpha_that_is_missing(tmp_path):
    assert "no alpha or scale in the file" in one(tmp_path, LORA, {"peft_type": "LORA", "r": 4})
    assert "takes alpha = r" in one(tmp_path / "b", FLUX, None)


def test_alpha_of_zero(tmp_path):
    assert "alpha is 0" in one(tmp_path, LORA, {**LORA_CONFIG, "lora_alpha": 0})


def test_an_initialisation_that_changes_the_base(tmp_path):
    found = inspect(write(tmp_path / "a", LORA, {**LORA_CONFIG, "init_lora_weights": "pissa_niter_4"}))
    assert "pissa_niter_4 changes the base" in found.suspicious[0]
    assert not found.readable
    assert inspect(write(tmp_path / "b", LORA, {**LORA_CONFIG, "init_lora_weights": "gaussian"})).readable


@pytest.mark.parametrize(("flag", "magnitude"), [(True, False), (False, True)])
def test_dora_that_is_half_there(tmp_path, flag, magnitude):
    tensors = {**LORA, f"{P}.lora_magnitude_vector": (24,)} if magnitude else LORA
    assert "lora_magnitude_vector" in one(tmp_path, tensors, {**LORA_CONFIG, "use_dora": flag})
    found = inspect(tmp_path / "a")
    assert (found.method, found.readable) == ("DoRA (PEFT)", magnitude)


def test_names_with_control_characters_and_tensors_of_zero_size(tmp_path):
    found = inspect(write(tmp_path / "a", {"w\x1b[31m.weight": (3, 3), "e.weight": (0, 3)}))
    assert found.suspicious == (
        r"1 tensor name with control or direction characters: 'w\x1b[31m.weight'",
        "1 tensor of zero size: e.weight",
    )


def test_packed_weights(tmp_path):
    folder = write(tmp_path / "a", {"l.0.qweight": (4, 8), "l.0.qzeros": (1, 1), "l.0.scales": (1, 8)}, dtype=np.int32)
    found = inspect(folder)
    assert found.suspicious == ("weights are stored packed by GPTQ: what is read of them is dequantised",)
    assert not found.readable
    assert found.reason.startswith("it is packed by GPTQ without a configuration")
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "gptq", "bits": 4}}')
    assert inspect(folder).readable
    (folder / "config.json").write_text('{"quantization_config": {"quant_method": "newest"}}')
    assert "packed by newest (GPTQ, AWQ or their like, tensor 'l.0.qweight')" in inspect(folder).reason


def test_two_copies_of_the_weights(tmp_path):
    folder = write(tmp_path / "a", {"w.weight": (3, 3)})
    torch.save({"w.weight": torch.zeros(3, 3)}, folder / "pytorch_model.bin")
    found = inspect(folder)
    assert found.container == "safetensors"
    assert any("pytorch_model.bin" in sentence and "is read" in sentence for sentence in found.suspicious)


def test_a_weight_stored_plain_and_under_modules_to_save(tmp_path):
    tensors = {
        **LORA,
        "base_model.model.score.weight": (2, 16),
        "base_model.model.score.modules_to_save.weight": (2, 16),
    }
    assert "stored twice" in one(tmp_path, tensors, LORA_CONFIG)


def test_tied_weights_are_said(tmp_path):
    shared = torch.zeros(8, 4)
    torch.save({"embed.weight": shared, "lm_head.weight": shared}, tmp_path / "pytorch_model.bin")
    found = inspect(tmp_path)
    assert found.parameters == 32
    assert "tied, stored once: 'lm_head.weight' is 'embed.weight'" in found.facts


def test_gpt2_declared_the_wrong_way_round(tmp_path):
    name = "base_model.model.transformer.h.0.attn.c_attn"
    tensors = {f"{name}.lora_A.weight": (4, 16), f"{name}.lora_B.weight": (48, 4)}
    assert "stored [in, out]" in one(tmp_path, tensors, {**LORA_CONFIG, "fan_in_fan_out": False})


@pytest.mark.parametrize("option", refusals.REFUSED_OPTIONS)
def test_options_that_are_not_read_are_the_reason(tmp_path, option):
    found = inspect(write(tmp_path / "a", LORA, {**LORA_CONFIG, option: ["x"]}))
    assert not found.readable
    assert found.reason == f"it {refusals.REFUSED_OPTIONS[option]}"


def test_a_costly_pattern_is_a_reason_and_not_a_hang(tmp_path):
    started = time.monotonic()
    found = inspect(write(tmp_path / "a", LORA, {**LORA_CONFIG, "rank_pattern": {"(a+)+$": 4}}))
    assert time.monotonic() - started < 2
    assert not found.readable
    assert "(a+)+$" in found.reason


# ---- what the torch-free tables repeat is what the loaders do


def test_the_tables_agree_with_the_loaders():
    assert set(FAMILIES) >= refusals.READ_TYPES
    rows = {method: methods.of_peft(method) for method in FAMILIES}
    assert {method for method, row in rows.items() if row and row.fate is not methods.Fate.NONE} == refusals.READ_TYPES


@pytest.mark.parametrize(
    "name",
    [
        "a.b.lora_A.weight", "a.b.lora_B.weight", "a.b.lora_A.default.weight", "a.lora_embedding_A", "a.lora_embedding_B.other",
        "a.experts.base_layer.lora_A.weight", "a.lora_B.bias", "a.lora_A", "a.weight", "a.lora_A.weight.absmax",
    ],
)  # fmt: skip
def test_factors_are_parsed_as_the_family_parses_them(name):
    match, parsed = methods.LORA.matcher.search(name), lora.LORA.parse(name)
    if parsed is not None and parsed[1].endswith(".bias"):
        parsed = None
    ours = match and (match["module"], match["down"] or match["up"], match["adapter"])
    assert ours == parsed


def test_every_row_has_a_name_of_its_own_kind():
    assert all(method.pattern for method in methods.METHODS)
    assert len({method.pattern for method in methods.METHODS}) == len(methods.METHODS)


INFO = TensorInfo("float32", (4, 16))


def test_every_tensor_of_a_large_adapter_is_recognised():
    many = {
        f"base_model.model.layers.{i // 500}.experts.{i % 500}.w1.lora_{part}.weight": INFO
        for i in range(20_000)
        for part in "AB"
    }
    started = time.monotonic()
    found = methods.recognise(many)
    assert time.monotonic() - started < 3
    assert (found.methods, len(found.modules), found.rest) == ((methods.LORA,), 20_000, ())


def test_only_so_many_kinds_of_names_are_tried():
    kinds = {f"{'ab.' * 5}x{i}y.weight": INFO for i in range(30_000)}
    assert methods.recognise({**kinds, f"{P}.lora_A.weight": INFO}).methods == (methods.FULL,)
    assert methods.recognise({f"{P}.lora_A.weight": INFO, **kinds}).methods == (methods.LORA,)


def test_a_name_without_end_is_not_tried():
    assert methods.recognise({"a_1." * 100_000 + "lora_A.weight": INFO}).methods == (methods.FULL,)


@pytest.mark.slow
def test_the_verdict_is_what_diagnose_does(oracle):
    wrong = []
    for case in sorted(oracle.iterdir()):
        for folder in (case / "adapter", case / "finetuned"):
            if not folder.exists():
                continue
            try:
                with open_pairs(case / "base", folder):
                    opens, why = True, ""
            except SpectraError as fault:
                measured = isinstance(fault, UnsupportedError) and open_insertions(folder) is not None
                opens, why = measured, str(fault)
            try:
                readable = inspect(folder).readable
            except SpectraError:
                readable = False
            # Whether the BASE can be read is not a question about the tuned side.
            if readable != opens and "base" not in why:
                wrong.append((case.name, readable, why))
    assert wrong == []


# ---- pickles


class Hostile:
    """Touches a sentinel when it is unpickled."""

    def __init__(self, sentinel):
        self.sentinel = sentinel

    def __reduce__(self):
        return os.system, (f"touch {self.sentinel}",)


def test_a_hostile_pickle_is_described_and_not_executed(tmp_path):
    sentinel = tmp_path / "sentinel"
    torch.save({"w": torch.zeros(2, 2), "evil": Hostile(sentinel)}, tmp_path / "pytorch_model.bin")
    for path in (tmp_path, tmp_path / "pytorch_model.bin"):
        found = inspect(path)
        assert found.hostile
        assert not found.readable
        assert (found.method, found.tensors) == ("unknown", 0)
        assert "would import" in found.suspicious[0]
        assert ".system" in found.suspicious[0]
    assert not sentinel.exists()


def test_a_hostile_pickle_beside_safetensors_is_left_alone(tmp_path):
    write(tmp_path / "a", {"w.weight": (3, 3)})
    torch.save({"evil": Hostile(tmp_path / "sentinel")}, tmp_path / "a" / "pytorch_model.bin")
    found = inspect(tmp_path / "a")
    assert not found.hostile
    assert found.readable


def test_an_index_that_leads_outside_is_no_hostile_pickle(tmp_path):
    (tmp_path / "pytorch_model.bin.index.json").write_text('{"weight_map": {"w": "../x.bin"}}')
    with pytest.raises(UnsafeFileError, match="outside its own folder"):
        inspect(tmp_path)


def test_a_bare_list_and_a_bare_matrix(tmp_path):
    torch.save([torch.zeros(24, 4), torch.zeros(4, 16)] * 3, tmp_path / "lora.pt")
    found = inspect(tmp_path / "lora.pt")
    assert (found.method, found.ranks, found.modules) == ("LoRA (cloneofsimo)", (4,), 3)
    torch.save(torch.zeros(50, 64), tmp_path / "prompt.model")
    found = inspect(tmp_path / "prompt.model")
    assert found.method == "soft prompt (one bare matrix)"
    assert found.facts == ("50 virtual tokens of width 64",)


# ---- npz


def npz(path, arrays, **keywords):
    np.savez(path, **arrays, **keywords)
    return path


def test_npz_without_numpy(tmp_path):
    arrays = {
        "model.layers.7.q_proj.lora_a": np.zeros((16, 4), np.float16),
        "model.layers.7.q_proj.lora_b": np.zeros((4, 24), np.float16),
    }
    found = inspect(npz(tmp_path / "adapters.npz", arrays))
    assert (found.container, found.method, found.ranks, found.dtypes) == (
        "NumPy archive",
        "LoRA (MLX)",
        (4,),
        {"float16": 2},
    )
    assert found.bytes == 2 * (64 + 96)
    assert not found.readable
    assert inspect(tmp_path).name == tmp_path.name


def test_npz_compressed_and_scalar(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros((300, 300)), b=np.float32(1))
    assert {t.name: (t.dtype, t.shape) for t in inspect(tmp_path / "x.npz").listed} == {
        "a": ("float64", (300, 300)),
        "b": ("float32", ()),
    }


def test_npz_of_objects_is_refused(tmp_path):
    path = npz(tmp_path / "x.npz", {"a": np.array([Hostile(tmp_path / "sentinel")], dtype=object)})
    with pytest.raises(UnsafeFileError, match="Python objects"):
        inspect(path)
    assert not (tmp_path / "sentinel").exists()


NPY = np.lib.format.magic(1, 0)
HEADERS = {
    "shape that the data does not fill": ("{'descr': '<f4', 'fortran_order': False, 'shape': (9, 9)}", FormatError),
    "negative extent": ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}", FormatError),
    "extent beyond any file": ("{'descr': '<f4', 'fortran_order': False, 'shape': (2**90,)}", FormatError),
    "a call": ("__import__('os').system('true')", FormatError),
    "nested": ("(" * 4000, FormatError),
    "text": ("{'descr': '<U5', 'fortran_order': False, 'shape': (1,)}", UnsupportedError),
    "fields": ("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,)}", UnsupportedError),
}


@pytest.mark.parametrize("case", HEADERS)
def test_npz_with_a_header_that_lies(tmp_path, case):
    text, error = HEADERS[case]
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", NPY + struct.pack("<H", len(text)) + text.encode() + b"\0" * 16)
    with pytest.raises(error, match="'a'"):
        inspect(tmp_path / "x.npz")


def test_npz_cut_anywhere_is_refused(tmp_path):
    raw = npz(tmp_path / "x.npz", {"a": np.zeros((8, 8), np.float32)}).read_bytes()
    for length in range(0, len(raw), 7):
        (tmp_path / "cut.npz").write_bytes(raw[:length])
        with pytest.raises(InputError):
            inspect(tmp_path / "cut.npz")


# ---- GGUF, built from the layout in its specification


def text(word):
    return struct.pack("<Q", len(word)) + word.encode()


def gguf(pairs=(), tensors=(), *, version=3, n_tensors=None, n_pairs=None, data=None):
    """Build a GGUF file; a pair is (key, type, packed value), a tensor (name, ne, type, offset, bytes)."""
    out = b"GGUF" + struct.pack(
        "<IQQ", version, len(tensors) if n_tensors is None else n_tensors, len(pairs) if n_pairs is None else n_pairs
    )
    for key, kind, value in pairs:
        out += text(key) + struct.pack("<I", kind) + value
    for name, extents, kind, offset, _ in tensors:
        out += text(name) + struct.pack(f"<I{len(extents)}QIQ", len(extents), *extents, kind, offset)
    out += b"\0" * (-len(out) % 32)
    size = max([offset + stored for *_, offset, stored in tensors], default=0)
    return out + b"\0" * (size if data is None else data)


ARCHITECTURE = ("general.architecture", 8, text("llama"))
Q = ("blk.0.attn_q.weight", (32, 4), 2, 0, 72)  # Q4_0: 4 rows of one block of 18 bytes


def test_gguf_model(tmp_path):
    tokens = ("tokenizer.ggml.tokens", 9, struct.pack("<IQ", 8, 2) + text("a") + text("bc"))
    scores = ("tokenizer.ggml.scores", 9, struct.pack("<IQff", 6, 2, 0.0, 1.0))
    norm = ("output_norm.weight", (32,), 0, 96, 128)
    (tmp_path / "m.gguf").write_bytes(gguf([ARCHITECTURE, tokens, scores], [Q, norm]))
    found = inspect(tmp_path)
    assert (found.container, found.dtypes, found.bytes, found.parameters) == (
        "GGUF",
        {"Q4_0": 1, "float32": 1},
        200,
        160,
    )
    assert [(tensor.name, tensor.shape) for tensor in found.listed] == [
        ("blk.0.attn_q.weight", (4, 32)),
        ("output_norm.weight", (32,)),
    ]
    assert found.facts[0] == "architecture llama"
    assert found.blocks == {"blk": (0,)}
    assert found.readable
    assert not found.suspicious


def test_gguf_adapter(tmp_path):
    pairs = [ARCHITECTURE, ("adapter.type", 8, text("lora")), ("adapter.lora.alpha", 6, struct.pack("<f", 8.0))]
    tensors = [("blk.1.attn_q.weight.lora_a", (16, 4), 0, 0, 256), ("blk.1.attn_q.weight.lora_b", (4, 24), 0, 256, 384)]
    (tmp_path / "a.gguf").write_bytes(gguf(pairs, tensors))
    found = inspect(tmp_path / "a.gguf")
    assert (found.method, found.ranks, found.alphas, found.scalings, found.targets) == (
        "LoRA (llama.cpp, GGUF)",
        (4,),
        (8.0,),
        (2.0,),
        ("attn_q",),
    )


GGUF_FAULTS = {
    "49 bytes that claim 2^60 pairs": gguf(n_pairs=2**60)[:24] + b"\0" * 25,
    "2^60 tensors": gguf(n_tensors=2**60),
    "2^31 tensors": gguf(n_tensors=2**31),
    "a key of 2^63 bytes": gguf(n_pairs=1)[:24] + struct.pack("<Q", 2**63) + b"\0" * 40,
    "an array of 2^60 texts": gguf([("k", 9, struct.pack("<IQ", 8, 2**60))]),
    "an array of 2^60 numbers": gguf([("k", 9, struct.pack("<IQ", 12, 2**60))]),
    "an array whose texts run out": gguf([("k", 9, struct.pack("<IQ", 8, 2) + text("a") + struct.pack("<Q", 2**40))]),
    "a value of unknown type": gguf([("k", 77, b"\0" * 8)]),
    "a key twice": gguf([ARCHITECTURE, ARCHITECTURE]),
    "an alignment of three": gguf([("general.alignment", 4, struct.pack("<I", 3))]),
    "five dimensions": gguf(tensors=[("t", (1, 1, 1, 1, 1), 0, 0, 4)]),
    "half a block": gguf(tensors=[("t", (16, 4), 2, 0, 72)]),
    "an offset past the end": gguf(tensors=[("t", (32, 4), 0, 2**40, 0)], data=512),
    "an offset off the alignment": gguf(tensors=[("t", (1,), 0, 4, 4)]),
    "overlapping tensors": gguf(tensors=[("t", (32,), 0, 0, 128), ("u", (32,), 0, 64, 128)]),
    "one name twice": gguf(tensors=[("t", (8,), 0, 0, 32), ("t", (8,), 0, 32, 32)]),
    "truncated data": gguf(tensors=[Q], data=71),
}


@pytest.mark.parametrize("case", GGUF_FAULTS)
def test_gguf_that_lies_is_refused_at_once(tmp_path, case):
    (tmp_path / "m.gguf").write_bytes(GGUF_FAULTS[case])
    started = time.monotonic()
    with pytest.raises(FormatError, match=r"m\.gguf"):
        inspect(tmp_path / "m.gguf")
    assert time.monotonic() - started < 0.5


def test_gguf_of_other_versions_and_types_is_named(tmp_path):
    for number, raw in enumerate((gguf(version=1), gguf(version=2**24 * 3), gguf(tensors=[("t", (32,), 99, 0, 0)]))):
        (tmp_path / f"{number}.gguf").write_bytes(raw)
        with pytest.raises(UnsupportedError, match=r"version|type 99"):
            inspect(tmp_path / f"{number}.gguf")


def test_gguf_cut_anywhere_is_refused(tmp_path):
    raw = gguf([ARCHITECTURE], [Q])
    for length in range(len(raw)):
        (tmp_path / "cut.gguf").write_bytes(raw[:length])
        with pytest.raises(InputError):
            inspect(tmp_path / "cut.gguf")


# ---- what is no weights


@pytest.mark.parametrize(
    ("name", "raw", "words"),
    [
        ("x.h5", b"\x89HDF\r\n\x1a\n" + b"\0" * 20, "HDF5"),
        ("x.tar.gz", b"\x1f\x8b\x08" + b"\0" * 20, "gzip"),
        ("x.png", b"\x89PNG\r\n\x1a\n", "PNG"),
        ("x.json", b'{"a": 1}', "Give the folder"),
        ("x.xyz", b"\x01\x02hello", "01 02 68 65"),
        ("x.xyz", b"\x1b[31m", r"\\x1b"),
        ("x.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("x.bin", b"<!DOCTYPE html>", "web page"),
        ("x.safetensors", b"", "empty|too short"),
    ],
)
def test_what_is_no_weights_is_named(tmp_path, name, raw, words):
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(InputError, match=words):
        inspect(tmp_path / name)


def test_a_zip_that_torch_did_not_write(tmp_path):
    with zipfile.ZipFile(tmp_path / "model.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("folder/model.safetensors", "x" * 100)
    with pytest.raises(UnsupportedError, match=r"zip archive of folder/model\.safetensors"):
        inspect(tmp_path / "model.zip")


def test_folders_point_at_the_weights_below(tmp_path):
    write(tmp_path / "unet", {"w.weight": (3, 3)})
    (tmp_path / "text_encoder").mkdir()
    npz(tmp_path / "text_encoder" / "x.npz", {"a": np.zeros(3)})
    with pytest.raises(InputError, match="these do: text_encoder, unet"):
        inspect(tmp_path)


def test_a_distributed_checkpoint_without_its_metadata_says_so(tmp_path):
    (tmp_path / "__0_0.distcp").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"without its \.metadata"):
        inspect(tmp_path)


def test_pipes_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(UnsafeFileError, match="not a regular file"):
        inspect(tmp_path / "model.safetensors")


def test_a_broken_file_raises_the_loader_s_own_error(tmp_path):
    folder = write(tmp_path / "a", LORA, LORA_CONFIG)
    raw = (folder / "adapter_model.safetensors").read_bytes()
    (folder / "adapter_model.safetensors").write_bytes(raw[:-1])
    with pytest.raises(FormatError, match="truncated"):
        inspect(folder)
    write(folder, LORA, {**LORA_CONFIG, "r": "4"})
    with pytest.raises(FormatError, match="r is '4'"):
        inspect(folder)


# ---- the proof that nothing heavy is imported

PROBE = """
import sys
from spectra.loaders.inspection.inspect import inspect
for path in sys.argv[1:]:
    inspect(path)
print(sorted(set(sys.modules) & {"torch", "numpy", "transformers", "matplotlib", "scipy", "safetensors"}))
"""


def test_nothing_heavy_is_imported(tmp_path):
    write(tmp_path / "a", LORA, LORA_CONFIG)
    torch.save({"w": torch.zeros(2, 2)}, tmp_path / "m.bin")
    npz(tmp_path / "x.npz", {"a": np.zeros(3)})
    (tmp_path / "m.gguf").write_bytes(gguf([ARCHITECTURE], [Q]))
    paths = [str(tmp_path / name) for name in ("a", "m.bin", "x.npz", "m.gguf")]
    ran = subprocess.run([sys.executable, "-c", PROBE, *paths], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


# ---- files made by strangers

REAL = {
    "adapters/ckpt_series/smollm135m_med_100ep/checkpoint-500": ("LoRA (PEFT)", (16,), (2.0,), 60, True),
    "adapters/mlx/hungphamdinh_1d4afc57f": ("LoRA (MLX)", (4,), (), 32, False),
    "adapters/mlx/wyek1n_qwen05b/0000100_adapters.safetensors": ("LoRA (MLX)", (8,), (10.0,), 8, True),
    "adapters/non_lora/adapterhub_adapter1": ("bottleneck adapter (AdapterHub)", (), (), 12, True),
    "adapters/non_lora/finegates_roberta": ("FineGates (PEFT)", (), (), 0, True),
    "adapters/non_lora/ia3_mt0_large": ("IA3 (PEFT)", (), (), 0, True),
    "adapters/non_lora/peft_regression_adalora_mlp": ("AdaLoRA (PEFT)", (12,), (8 / 12,), 1, True),
    "adapters/non_lora/peft_regression_ia3_mlp": ("IA3 (PEFT)", (), (), 0, True),
    "adapters/non_lora/peft_regression_lora_conv2d": ("LoRA (PEFT)", (8,), (1.0,), 1, True),
    "adapters/non_lora/peft_regression_lora_emb_conv1d": ("LoRA (PEFT)", (8,), (1.0,), 2, True),
    "adapters/non_lora/softprompt_t5small/soft_prompt_amr_120ep_50tok.model": (
        "soft prompt (one bare matrix)",
        (),
        (),
        0,
        True,
    ),
    "adapters/non_lora/unilora_roberta": ("UniLoRA (PEFT)", (), (), 0, False),
    "adapters/peft/bert_base_seqcls": ("LoRA (PEFT)", (8,), (4.0,), 24, True),
    "adapters/peft/bloom560m_merged_linear": ("LoRA, MergedLinear of PEFT 0.2 (enable_lora)", (16,), (2.0,), 24, True),
    "adapters/peft/distilbert_imdb": ("LoRA (PEFT)", (8,), (2.0,), 12, True),
    "adapters/peft/gpt2_ironhack_r4_a1_d0.05_e1": ("LoRA (PEFT)", (4,), (0.25,), 36, True),
    "adapters/peft/gpt2_thesotti_bin": ("LoRA (PEFT)", (8,), (4.0,), 24, True),
    "adapters/peft/neurodx_custom": ("LoRA (PEFT)", (8,), (4.0,), 49, True),
    "adapters/peft/opencalm1b_rank1": ("LoRA (PEFT)", (1,), (32.0,), 24, True),
    "adapters/peft/t5small_r16": ("LoRA (PEFT)", (16,), (2.0,), 36, True),
    "adapters/sd/cloneofsimo_analog_svd_rank4.safetensors": ("LoRA (cloneofsimo)", (4,), (), 192, True),
    "adapters/sd/cloneofsimo_lora_illust.pt": ("LoRA (cloneofsimo)", (4,), (), 128, True),
    "adapters/sd/diffusers_pokemon": ("LoRA (diffusers, old)", (4,), (), 128, True),
    "adapters/sd/leighwoods_lora.safetensors": ("LoRA (diffusers)", (16,), (), 4, True),
    "adapters/sd/lycoris_lokr_8.safetensors": ("LoKr (LyCORIS)", (8,), (1.0,), 350, True),
    "adapters/sd/textual_inversion_learned_embeds.bin": ("textual inversion", (), (), 0, False),
    "adapters/vision/lora_vit_feb27.safetensors": ("LoRA (LoRA-ViT)", (4,), (), 24, False),
    "pairs/bert_tiny/adalora_emot": ("AdaLoRA (PEFT)", (12,), (64 / 12,), 4, True),
    "pairs/bert_tiny/ft_sst2_converted": ("full checkpoint", (), (), 0, True),
    "pairs/bert_tiny/lora_emot_lora_baseline_checkpoint-999": ("LoRA (PEFT)", (8,), (2.0,), 4, True),
    "pairs/gemma3_270m/zouhe0_r4_qkvo": ("LoRA (PEFT)", (4,), (4.0,), 72, True),
    "pairs/minilm/lora_contract_buddy_0": ("LoRA (PEFT)", (4,), (4.0,), 12, True),
}


@pytest.mark.parametrize("path", REAL)
def test_real_files(real_data, path):
    found = inspect(real_data / path)
    assert (found.method, found.ranks, found.scalings, found.modules, found.readable) == REAL[path]


def test_every_real_folder_is_described(real_data):
    folders = sorted(
        path.parent for path in real_data.rglob("adapter_config.json") if path.parent.name != "wyek1n_qwen05b"
    )
    assert len(folders) > 30
    for folder in folders:
        assert inspect(folder).tensors > 0


def test_the_verdict_on_real_files_without_updates_is_what_diagnose_measures(real_data):
    measured = {"adapters/non_lora/adapterhub_adapter1": "bottleneck adapter",
                "adapters/non_lora/softprompt_t5small/soft_prompt_amr_120ep_50tok.model": "soft prompt"}  # fmt: skip
    for path, kind in measured.items():
        found = open_insertions(real_data / path)
        found.source.close()
        assert found.method.startswith(kind)
        assert f"({found.method})" in inspect(real_data / path).reason


def test_a_missing_factor_comes_before_the_options_that_would_not_help(real_data):
    assert "a factor is missing" in inspect(real_data / "adapters/vision/lora_vit_feb27.safetensors").reason
    assert "adapter file" in inspect(real_data / "adapters/sd/cloneofsimo_lora_illust.pt").reason


def test_real_suspicions(real_data):
    def said(path):
        return " | ".join(inspect(real_data / path).suspicious)

    assert "rank above the matrix's size: head" in said("adapters/peft/neurodx_custom")
    assert "fan_in_fan_out is false" in said("adapters/peft/gpt2_ironhack_r4_a16_d0.05_e1")
    assert "24 modules without factor B" in said("adapters/vision/lora_vit_feb27.safetensors")
    assert said("pairs/minilm/lora_contract_buddy_0") == ""


def test_the_name_is_the_one_the_user_gave(tmp_path, monkeypatch):
    target = write(tmp_path / "blobs", {"w.weight": (3, 3)}) / "model.safetensors"
    target = target.rename(target.with_name("0123abcd"))
    link = tmp_path / "model.safetensors"
    link.symlink_to(target)
    assert inspect(link).name == "model.safetensors"
    monkeypatch.chdir(tmp_path)
    assert inspect(Path()).name == tmp_path.name


def test_zip_members_are_read_by_their_heads_only(tmp_path):
    raw = io.BytesIO()
    np.save(raw, np.zeros(1_000_000))
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(20):
            archive.writestr(f"{number}.npy", raw.getvalue())
    started = time.monotonic()
    assert inspect(tmp_path / "bomb.npz").parameters == 20_000_000
    assert time.monotonic() - started < 0.5
