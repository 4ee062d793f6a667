"""Which way square weights lie, which no shape tells: against PEFT's own merge, and said where it is not sure."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from spectra import open_pairs
from spectra.loaders.orientation import CONV1D_MODELS, LINEAR_MODELS

pytestmark = pytest.mark.filterwarnings("ignore")
WIDTH = 12


def conv1d(*shape):
    layer = pytest.importorskip("transformers.pytorch_utils").Conv1D(*shape)
    torch.nn.init.normal_(layer.weight)
    return layer


class Net(torch.nn.Module):
    """Custom code: Conv1D, square and not, and a Linear, under names that no table has."""

    def __init__(self, *, last):
        super().__init__()
        self.mix = conv1d(WIDTH, WIDTH)
        self.wide = conv1d(2 * WIDTH, WIDTH)
        self.last = last
        self.config = {"model_type": "custom", "tie_word_embeddings": False}

    def forward(self, x):
        return self.last(self.wide(self.mix(x))[..., :WIDTH])


def made(folder, targets, *, last=None, model_type="custom", **options):
    """Save base and adapter as PEFT does, and return the stored dW of each weight by PEFT's merge in double."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(4)
    model = Net(last=last or torch.nn.Linear(WIDTH, WIDTH))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    (folder / "base").mkdir(parents=True)
    save_file(before, folder / "base" / "model.safetensors")
    (folder / "base" / "config.json").write_text(json.dumps({"model_type": model_type} if model_type else {}))
    config = peft.LoraConfig(r=3, lora_alpha=6, target_modules=targets, init_lora_weights=False, **options)
    wrapped = peft.get_peft_model(model, config)
    for name, value in wrapped.named_parameters():
        if "magnitude" in name:
            value.data *= 1 + torch.rand_like(value) / 2
    wrapped.save_pretrained(folder / "adapter")
    after = wrapped.double().merge_and_unload().state_dict()
    return {key: after[key] - value.double() for key, value in before.items()}


def require(folder, truth, *keys):
    with open_pairs(folder / "base", folder / "adapter") as pairs:
        assert set(pairs.keys) == set(keys)
        for pair in pairs:
            stored = pair.to_stored(pair.update.dense()).double()
            torch.testing.assert_close(stored, truth[pair.key], rtol=1e-4, atol=1e-5)
            assert pair.layout.kind == ("linear" if pair.key == "last.weight" else "transposed")
        return [note for note in pairs.notes if "fan_in_fan_out" in note]


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("model_type", ["custom", None])
def test_the_flag_tells_of_square_weights_where_the_architecture_is_not_known(tmp_path, model_type, dora):
    truth = made(tmp_path, ["mix"], model_type=model_type, fan_in_fan_out=True, use_dora=dora)
    (note,) = require(tmp_path, truth, "mix.weight")
    assert note == "mix.weight: square, and read as [in, out] because fan_in_fan_out is set"


def test_shapes_tell_of_the_others_and_agree_with_the_flag(tmp_path):
    truth = made(tmp_path, ["mix", "wide"], fan_in_fan_out=True)
    (note,) = require(tmp_path, truth, "mix.weight", "wide.weight")
    assert "because fan_in_fan_out is set" in note
    truth = made(tmp_path / "b", ["wide"], fan_in_fan_out=True)
    assert require(tmp_path / "b", truth, "wide.weight") == []


def test_layers_of_both_kinds_in_one_adapter_leave_the_square_ones_open(tmp_path):
    """PEFT saves the flag of the layer that it wrapped last: here the Linear's, of two that are Conv1D."""
    made(tmp_path, ["mix", "wide", "last"], fan_in_fan_out=True)
    assert json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["fan_in_fan_out"] is False
    with open_pairs(tmp_path / "base", tmp_path / "adapter") as pairs:
        (note,) = (note for note in pairs.notes if "fan_in_fan_out" in note)
    assert note.startswith("last.weight, mix.weight: square, and read as [out, in] by fan_in_fan_out, while the shapes")


def test_square_linear_weights_need_no_word(tmp_path):
    truth = made(tmp_path, ["last"])
    assert require(tmp_path, truth, "last.weight") == []


@pytest.mark.parametrize(
    ("model_type", "key", "flag", "kind", "said"),
    [
        ("llama", "model.layers.0.self_attn.q_proj", True, "linear", "fan_in_fan_out is true"),
        ("llama", "model.layers.0.self_attn.q_proj", False, "linear", None),
        ("llama", "model.layers.0.self_attn.q_proj", None, "linear", None),
        ("gpt2", "transformer.h.0.attn.c_proj", False, "transposed", "fan_in_fan_out is false"),
        ("gpt2", "transformer.h.0.attn.c_proj", True, "transposed", None),
        ("gpt2", "transformer.h.0.attn.c_proj", None, "transposed", None),
    ],
)
def test_a_known_architecture_is_followed_and_a_flag_against_it_is_said(tmp_path, model_type, key, flag, kind, said):
    for name in ("b", "a"):
        (tmp_path / name).mkdir()
    save_file({f"{key}.weight": torch.randn(WIDTH, WIDTH)}, tmp_path / "b" / "model.safetensors")
    (tmp_path / "b" / "config.json").write_text(json.dumps({"model_type": model_type}))
    factors = {f"base_model.model.{key}.lora_A.weight": torch.ones(2, WIDTH),
               f"base_model.model.{key}.lora_B.weight": torch.ones(WIDTH, 2)}  # fmt: skip
    save_file(factors, tmp_path / "a" / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4} | ({} if flag is None else {"fan_in_fan_out": flag})
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config))
    with open_pairs(tmp_path / "b", tmp_path / "a") as pairs:
        (pair,) = pairs
        notes = [note for note in pairs.notes if "fan_in_fan_out" in note]
    assert pair.layout.kind == kind
    assert len(notes) == (said is not None)
    assert said is None or (notes[0].startswith(said) and "the architecture is followed" in notes[0])


def test_code_of_its_own_is_not_known_by_its_model_type(tmp_path):
    truth = made(tmp_path, ["mix"], model_type="llama", fan_in_fan_out=True)
    with open_pairs(tmp_path / "base", tmp_path / "adapter") as pairs:
        assert pairs.pair("mix.weight").layout.kind == "linear"
    (tmp_path / "base" / "config.json").write_text(
        json.dumps({"model_type": "llama", "auto_map": {"AutoModel": "m.M"}})
    )
    assert len(require(tmp_path, truth, "mix.weight")) == 1


def test_the_lists_of_architectures_are_those_of_transformers():
    auto = pytest.importorskip("transformers.models.auto.configuration_auto")
    models = Path(auto.__file__).parent.parent

    def uses(kind):
        code = list((models / auto.model_type_to_module_name(kind)).glob("modeling_*.py"))
        assert code, kind
        return any("Conv1D(" in file.read_text() for file in code if "flax" not in file.name and "tf_" not in file.name)

    assert {kind for kind in LINEAR_MODELS if uses(kind)} == set()
    assert {kind for kind in CONV1D_MODELS if not uses(kind)} == set()
