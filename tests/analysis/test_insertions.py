"""Prompts, prefixes and bottlenecks are measured for what they are: planted truth, and files of the libraries."""

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import spectra
from spectra import testing
from spectra.cli.main import cli
from spectra.errors import InputError, UnsupportedError


def saved(folder, tensors, config):
    folder.mkdir()
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def base(tmp_path):
    return testing.save_checkpoint(tmp_path / "base", testing.llama(seed=1, blocks=2, width=64, vocabulary=96))


def embedding(base):
    return load_file(base / "model.safetensors")["model.embed_tokens.weight"].double()


def test_a_prompt_inside_the_leading_space_is_all_within_and_one_outside_is_not(base, tmp_path):
    directions = torch.linalg.svd(embedding(base)).Vh
    for name, rows, share in (("in", directions[:5], 1.0), ("out", directions[20:25], 0.0)):
        prompt = saved(tmp_path / name, {"prompt_embeddings": rows.float()}, {"peft_type": "PROMPT_TUNING"})
        (row,) = spectra.insertions(base, prompt).rows
        assert row.kind == "prompt"
        assert row.overlap.key == "model.embed_tokens.weight"
        assert row.overlap.share == pytest.approx(share, abs=1e-5)
        assert row.overlap.chance == 16 / 64
        assert row.rank.effective == pytest.approx(5, abs=1e-3)
        assert row.sigma == pytest.approx([1.0] * 5, abs=1e-5)


def test_a_prefix_is_split_by_layer_keys_before_values(base, tmp_path):
    torch.manual_seed(0)
    parts = torch.randn(2, 2, 5, 64)  # layer, keys or values, token, width
    whole = parts.permute(2, 0, 1, 3).reshape(5, -1)
    config = {"peft_type": "PREFIX_TUNING", "num_layers": 2}
    found = spectra.insertions(base, saved(tmp_path / "prefix", {"prompt_embeddings": whole}, config))
    assert [(row.name, row.kind) for row in found.rows] == [
        ("layer 0", "prefix keys"), ("layer 0", "prefix values"), ("layer 1", "prefix keys"), ("layer 1", "prefix values"),
    ]  # fmt: skip
    for row, part in zip(found.rows, parts.flatten(0, 1), strict=True):
        assert row.sigma == pytest.approx(torch.linalg.svdvals(part).tolist(), rel=1e-4)


def test_the_product_of_a_bottleneck_has_the_spectrum_of_its_dense_form(base, tmp_path):
    torch.manual_seed(0)
    down, up = torch.randn(4, 64), torch.randn(64, 4)
    place = "model.layers.0.output.adapters.task."
    folder = tmp_path / "hub"
    folder.mkdir()
    torch.save({place + "adapter_down.0.weight": down, place + "adapter_up.weight": up}, folder / "pytorch_adapter.bin")
    found = spectra.insertions(base, folder)
    assert [row.kind for row in found.rows] == ["down", "up", "up down"]
    assert found.rows[2].sigma == pytest.approx(torch.linalg.svdvals(up @ down)[:4].tolist(), rel=1e-4)
    assert found.rows[2].shape == (64, 64)
    assert "no update of a weight" in " ".join(str(found).split())


def test_the_command_measures_it_without_being_told(base, tmp_path):
    prompt = saved(tmp_path / "p", {"prompt_embeddings": torch.randn(3, 64)}, {"peft_type": "PROMPT_TUNING"})
    done = CliRunner().invoke(cli, ["diagnose", str(base), str(prompt), "--json", "-"])
    assert done.exit_code == 0, done.output
    document = json.loads(done.stdout)
    assert document["summary"] == {"method": "prompt tuning", "insertions": 1, "failed": 0, "weight_updates": 0}
    assert len(document["insertions"]) == 1


def test_a_prompt_of_another_width_asks_for_its_base(base, tmp_path):
    prompt = saved(tmp_path / "p", {"prompt_embeddings": torch.randn(3, 48)}, {"peft_type": "PROMPT_TUNING"})
    with pytest.raises(InputError, match="Is this the base it was trained on"):
        spectra.insertions(base, prompt)


def test_layers_that_do_not_divide_the_prefix_are_refused(base, tmp_path):
    config = {"peft_type": "PREFIX_TUNING", "num_layers": 5}
    with pytest.raises(UnsupportedError, match="num_layers"):
        spectra.insertions(base, saved(tmp_path / "p", {"prompt_embeddings": torch.randn(3, 64)}, config))


def test_the_diagnosis_of_what_only_inserts_names_the_call_that_measures_it(base, tmp_path):
    prompt = saved(tmp_path / "p", {"prompt_embeddings": torch.randn(3, 64)}, {"peft_type": "PROMPT_TUNING"})
    hub = saved(
        tmp_path / "hub",
        {"a.adapter_down.weight": torch.randn(4, 64)},
        {"model_class": "BertAdapterModel", "config": {"architecture": None}},
    )
    for tuned in (prompt, hub):
        with pytest.raises(UnsupportedError, match=r"weight update.*; spectra\.insertions measures"):
            spectra.diagnose(base, tuned)


def test_a_full_fine_tune_inserts_nothing(base):
    with pytest.raises(UnsupportedError, match="inserts no"):
        spectra.insertions(base, base)


def test_a_prompt_of_nan_is_a_failed_row(base, tmp_path):
    prompt = torch.full((3, 64), torch.nan)
    found = spectra.insertions(base, saved(tmp_path / "p", {"prompt_embeddings": prompt}, {"peft_type": "P_TUNING"}))
    assert found.failed == 1
    assert "NaN" in found.rows[0].reason


@pytest.mark.parametrize("encoder_first", [True, False])
def test_the_prefix_of_an_encoder_and_decoder_stands_before_the_decoders_own_attention(tmp_path, encoder_first):
    torch.manual_seed(0)
    encoder = {
        f"encoder.block.{block}.layer.0.SelfAttention.{part}.weight": torch.randn(8, 8)
        for block in range(2)
        for part in "kv"
    }
    decoder = {
        f"decoder.block.{block}.layer.{sub}.{name}.{part}.weight": torch.randn(8, 8)
        for block in range(2)
        for sub, name in ((0, "SelfAttention"), (1, "EncDecAttention"))
        for part in "kv"
    }
    base = {**encoder, **decoder} if encoder_first else {**decoder, **encoder}
    config = {"peft_type": "PREFIX_TUNING", "num_layers": 2}
    found = spectra.insertions(base, saved(tmp_path / "p", {"prompt_embeddings": torch.randn(3, 32)}, config))
    assert [row.overlap.key for row in found.rows] == [
        f"decoder.block.{block}.layer.0.SelfAttention.{part}.weight" for block in range(2) for part in "kv"
    ]


def test_where_several_projections_may_be_meant_none_is_taken(tmp_path):
    base = {
        f"{tower}.layers.0.attn.{part}.weight": torch.randn(8, 8) for tower in ("text", "vision") for part in ("k", "v")
    }
    config = {"peft_type": "PREFIX_TUNING", "num_layers": 1}
    found = spectra.insertions(base, saved(tmp_path / "p", {"prompt_embeddings": torch.randn(3, 16)}, config))
    assert [row.overlap for row in found.rows] == [None, None]
