"""Adapters made with PEFT itself: dW is what PEFT's own merge adds, in float64, to every weight on disk."""

import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from spectra import open_pairs
from spectra.errors import InputError, MatchError, UnsupportedError

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (
        "fan_in_fan_out is set to",  # PEFT says that it corrects the flag: the point of those cases
        "Setting `save_embedding_layers`",  # PEFT saves the frozen embedding too: must be skipped
        "Model with `tie_word_embeddings=True`",  # tied weights are targeted on purpose
        "Model has `tie_word_embeddings=True`",
        "Input and output embeddings are no longer tied",
        "Found tied layers",
        "You have requested `ensure_weight_tying`",
        "Could not find a config file",
        "Unable to fetch remote file",
        "LoRA adapter added to ConvNd layer with groups > 1",
        "Adapter .* LoRA tensor",  # PEFT takes the bias of lora_B for a broken factor
        "`is_gradient_checkpointing` is deprecated",  # transformers, of itself
    )
]


class Net(nn.Module):
    """Every kind of layer that PEFT adapts and no transformer has."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(40, 24)
        self.sound = nn.Conv1d(24, 12, 3)
        self.image = nn.Conv2d(12, 20, (3, 2), stride=2, dilation=2)
        self.point = nn.Conv2d(20, 16, 1)
        self.groups = nn.Conv2d(16, 16, 3, groups=4)
        self.attention = nn.MultiheadAttention(16, 2)
        self.head = nn.Linear(16, 5)


def llama(tie=False, dtype="float32", vocab=96, cls="LlamaForCausalLM"):
    config = transformers.LlamaConfig(
        vocab_size=vocab, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tie,
    )  # fmt: skip
    return getattr(transformers, cls)(config).to(getattr(torch, dtype))


def gpt2():
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=80, n_positions=16, n_embd=32, n_layer=2, n_head=2)
    )


def bert(cls="BertForSequenceClassification", labels=3):
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=16, num_labels=labels,
    )  # fmt: skip
    return getattr(transformers, cls)(config)


def captioner():
    """A composite whose decoder alone is a GPT-2."""
    sight = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48, image_size=8, patch_size=4
    )
    words = transformers.GPT2Config(
        vocab_size=80, n_positions=16, n_embd=32, n_layer=1, n_head=2, add_cross_attention=True
    )
    both = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(sight, words)
    return transformers.VisionEncoderDecoderModel(both)


def t5():
    config = transformers.T5Config(vocab_size=60, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)
    return transformers.T5ForConditionalGeneration(config)


def save_model(model, folder):
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")


def trained(model, config, *, name="default", autocast=True):
    """Wrap a model as PEFT does and give every trained parameter a value of its own."""
    wrapped = peft.get_peft_model(model, config, adapter_name=name, autocast_adapter_dtype=autocast)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for key, parameter in wrapped.named_parameters():
            if parameter.requires_grad:
                noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
                parameter.copy_(parameter * (1 + noise / 10) if "magnitude" in key else parameter + noise / 3)
    return wrapped


def merged_update(wrapped, base):
    """dW of every weight on disk as PEFT's merge in float64 makes it."""
    before, wrapped = {key: value.double() for key, value in base.items()}, wrapped.double()
    # PEFT adds the update of an attention's output projection twice, when it runs and when it merges (its #3774).
    once = {
        f"{name.removeprefix('base_model.model.')}.out_proj.weight": module.base_layer.out_proj.get_delta_weight(
            "default"
        )
        for name, module in wrapped.named_modules()
        if isinstance(module, peft.tuners.lora.layer.MultiheadAttention)
    }
    after = wrapped.merge_and_unload().state_dict()
    truth = {key: after[key].double() - value for key, value in before.items() if key in after and value.ndim > 1}
    return {key: value.detach() for key, value in {**truth, **once}.items()}


def made(folder, model, *, saved_base=None, name="default", autocast=True, **options):
    """Save a base and a PEFT adapter of it; return both folders and the true dW by the base's names on disk."""
    torch.manual_seed(3)
    save_model(saved_base or model, folder / "base")
    base = load_file(folder / "base" / "model.safetensors")
    wrapped = trained(model, peft.LoraConfig(**options), name=name, autocast=autocast)
    wrapped.save_pretrained(folder / "adapter")
    return folder / "base", folder / "adapter", merged_update(wrapped, base)


def made_without_merge(folder, model, *, saved_base=None, **options):
    """As `made`, for what PEFT refuses to merge: the truth is left out."""
    save_model(saved_base or model, folder / "base")
    trained(model, peft.LoraConfig(**options)).save_pretrained(folder / "adapter")
    return folder / "base", folder / "adapter"


def require_right(base, adapter, truth):
    """Assert that every changed matrix is a pair with the true dW, and no other matrix is changed."""
    with open_pairs(base, adapter) as pairs:
        found = {pair.key: pair for pair in pairs}
    for key, pair in found.items():
        update = pair.to_stored(pair.update.dense()).double()
        torch.testing.assert_close(update, truth[key], rtol=1e-4, atol=2e-5 * float(truth[key].abs().max()), msg=key)
        if pair.update.factors is not None:
            B, A = pair.update.factors
            assert pair.allotted == B.shape[1] == A.shape[0]
            torch.testing.assert_close(pair.to_stored(B @ A).double(), truth[key], rtol=1e-4, atol=1e-5)
    missing = [key for key, value in truth.items() if key not in found and float(value.abs().max()) > 1e-12]
    assert missing == []
    return found


LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# PEFT sorts the patterns when it saves them, so those that match one module stand in sorted order here.
PATTERNS = {
    "rank_pattern": {r"layers.1.mlp.(up|down)_proj": 6, r"layers\.0\.self_attn\.k_proj": 2, "q_proj": 8, "up_proj": 3},
    "alpha_pattern": {"^model.layers.0.mlp.up_proj": 100, r"layers\.1\..*": 5, "q_proj": 7},
}
CASES = {
    "alpha is not r": (llama, {"target_modules": LINEAR, "r": 4, "lora_alpha": 10}),
    "rsLoRA": (llama, {"target_modules": LINEAR, "r": 5, "lora_alpha": 8, "use_rslora": True}),
    "patterns": (llama, {"target_modules": LINEAR, "r": 4, "lora_alpha": 12, **PATTERNS}),
    "patterns and rsLoRA": (llama, {"target_modules": LINEAR, "r": 4, "use_rslora": True, **PATTERNS}),
    "target by regular expression": (llama, {"target_modules": r".*layers\.1\.self_attn\.(q|o)_proj", "r": 3}),
    "embedding and head": (llama, {"target_modules": ["embed_tokens", "lm_head", "q_proj"], "r": 4, "lora_alpha": 6}),
    "DoRA": (llama, {"target_modules": LINEAR, "r": 4, "lora_alpha": 10, "use_dora": True}),
    "DoRA and patterns": (llama, {"target_modules": LINEAR, "use_dora": True, "use_rslora": True, **PATTERNS}),
    "DoRA embedding": (llama, {"target_modules": ["embed_tokens", "lm_head"], "r": 4, "use_dora": True}),
    "modules_to_save": (llama, {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}),
    "lora_bias": (gpt2, {"target_modules": ["c_attn"], "lora_bias": True, "fan_in_fan_out": True}),
    "Conv1D": (gpt2, {"target_modules": ["c_attn", "c_proj", "c_fc"], "r": 4, "lora_alpha": 6, "fan_in_fan_out": True}),
    "Conv1D, wrong flag": (gpt2, {"target_modules": ["c_attn", "c_proj", "c_fc"], "r": 4, "fan_in_fan_out": False}),
    "Linear, wrong flag": (llama, {"target_modules": ["q_proj", "k_proj"], "r": 4, "fan_in_fan_out": True}),
    "Conv1D and embeddings": (gpt2, {"target_modules": ["c_proj", "wte", "wpe"], "r": 4, "fan_in_fan_out": True}),
    "Conv1D DoRA": (gpt2, {"target_modules": ["c_attn", "c_proj"], "use_dora": True, "fan_in_fan_out": True}),
    "bias of all": (bert, {"target_modules": ["query", "dense"], "bias": "all"}),
    "bias of adapted": (bert, {"target_modules": ["query"], "bias": "lora_only"}),
    "classifier in the base": (bert, {"target_modules": ["query"], "task_type": "SEQ_CLS"}),
    "T5": (t5, {"target_modules": ["q", "v", "wi", "wo"], "r": 4, "lora_alpha": 9}),
    "T5 shared embedding": (t5, {"target_modules": ["shared", "q"], "r": 4}),
    "Conv1D in a composite": (captioner, {"target_modules": ["c_attn", "c_proj", "q_attn"], "fan_in_fan_out": True}),
    "embedding": (Net, {"target_modules": ["embed", "head"], "r": 3, "lora_alpha": 5}),
    "embedding DoRA": (Net, {"target_modules": ["embed"], "r": 3, "use_dora": True}),
    "convolutions": (Net, {"target_modules": ["sound", "image", "point"], "r": 3, "lora_alpha": 5}),
    "convolutions, rsLoRA": (Net, {"target_modules": ["image"], "r": 3, "use_rslora": True}),
    "convolutions DoRA": (Net, {"target_modules": ["sound", "image", "point"], "r": 3, "use_dora": True}),
    "attention": (Net, {"target_modules": ["attention"], "r": 4, "lora_alpha": 6}),
    "attention, patterns": (Net, {"target_modules": ["attention"], "rank_pattern": {"attention": 2}, "lora_alpha": 3}),
    "bf16": (lambda: llama(dtype="bfloat16"), {"target_modules": LINEAR, "r": 4, "autocast": False}),
    "fp16": (lambda: llama(dtype="float16"), {"target_modules": LINEAR, "r": 4, "autocast": False}),
    "bf16 base, fp32 adapter": (lambda: llama(dtype="bfloat16"), {"target_modules": LINEAR, "r": 4}),
    "bf16 DoRA": (lambda: llama(dtype="bfloat16"), {"target_modules": ["q_proj"], "use_dora": True, "autocast": False}),
    "MonteCLoRA": (llama, {"target_modules": ["q_proj"], "monteclora_config": {}}),
    "VeLoRA": (llama, {"target_modules": ["q_proj"], "velora_config": {}}),
}


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    """Make a case of the table once: the folders of base and adapter, and the true dW."""
    known = {}

    def make(name):
        if name not in known:
            model, options = CASES[name]
            torch.manual_seed(1)
            known[name] = made(tmp_path_factory.mktemp("case"), model(), **options)
        return known[name]

    return make


@pytest.mark.parametrize("name", CASES)
def test_update_is_what_peft_merges(case, name):
    base, adapter, truth = case(name)
    assert require_right(base, adapter, truth)


@pytest.mark.parametrize("name", CASES)
def test_every_tensor_of_the_adapter_is_used_or_skipped(case, name):
    base, adapter, _ = case(name)
    stored = load_file(adapter / "adapter_model.safetensors")
    with open_pairs(base, adapter) as pairs:
        used = sum(pair.update_storage.parameters for pair in pairs)
        left_out = [key for key, _ in pairs.skipped]
    assert len(left_out) == len(set(left_out))
    assert used + sum(stored[key].numel() for key in left_out) == sum(value.numel() for value in stored.values())


@pytest.mark.parametrize("name", ["patterns", "Conv1D", "embedding", "convolutions", "embedding and head", "attention"])
def test_update_is_peft_get_delta_weight(tmp_path, name):
    model, options = CASES[name]
    model = model()
    save_model(model, tmp_path / "base")
    wrapped = trained(model, peft.LoraConfig(**options))
    wrapped.save_pretrained(tmp_path / "adapter")
    with open_pairs(tmp_path / "base", tmp_path / "adapter") as pairs:
        found = {pair.key: pair.to_stored(pair.update.dense()) for pair in pairs}
    for module_name, module in wrapped.named_modules():
        if isinstance(module, peft.tuners.lora.layer.LoraLayer):
            plain = module_name.removeprefix("base_model.model.").replace(".base_layer", "")
            key = f"{plain}.{'in_proj_' if hasattr(module, 'in_proj_weight') else ''}weight"
            expected = module.get_delta_weight("default").detach()
            torch.testing.assert_close(found.pop(key), expected, rtol=1e-5, atol=1e-6, msg=key)
    assert found == {}


def test_patterns_that_overlap_take_the_one_the_stored_rank_tells(tmp_path):
    # PEFT trains with the first pattern, and sorts them when it saves: the order of training is lost.
    patterns = {"up_proj": 3, r"layers\.0\.mlp\.up_proj": 6}
    base, adapter, truth = made(tmp_path, llama(), target_modules=["up_proj"], r=4, rank_pattern=patterns)
    assert {pair.allotted for pair in require_right(base, adapter, truth).values()} == {3}


def test_alpha_patterns_that_overlap_are_noted(tmp_path):
    patterns = {"layers.0.mlp.up_proj": 3, "up_proj": 6}
    base, adapter, truth = made(tmp_path, llama(), target_modules=["up_proj"], r=4, alpha_pattern=patterns)
    noted = {key: pair.notes for key, pair in require_right(base, adapter, truth).items()}
    assert "alpha 3 is taken" in noted["model.layers.0.mlp.up_proj.weight"][0]
    assert noted["model.layers.1.mlp.up_proj.weight"] == ()


def test_grouped_convolution_is_skipped_with_its_reason(tmp_path):
    base, adapter = made_without_merge(tmp_path, Net(), target_modules=["groups", "head"], r=4)
    with open_pairs(base, adapter) as pairs:
        assert pairs.keys == ("head.weight",)
        reasons = {key: reason for key, reason in pairs.skipped if "groups" in key}
    assert len(reasons) == 2
    assert all("grouped convolution" in reason for reason in reasons.values())


HEADS = {
    "absent": (lambda: bert("BertModel"), "a new module: the base has no such weight"),
    "of another size": (lambda: bert(labels=5), "a head of another size: [5, 32] in the base, [3, 32] tuned"),
}


@pytest.mark.parametrize("name", HEADS)
def test_a_head_that_the_base_lacks_is_skipped(tmp_path, name):
    other, reason = HEADS[name]
    base, adapter = made_without_merge(
        tmp_path, bert(), saved_base=other(), target_modules=["query"], task_type="SEQ_CLS"
    )
    with open_pairs(base, adapter) as pairs:
        assert len(pairs) == 2
        assert dict(pairs.skipped)["base_model.model.classifier.weight"] == reason


@pytest.mark.parametrize("container", ["safetensors", "bin"])
def test_head_adapted_while_tied_changes_the_shared_weight(tmp_path, container):
    base, adapter, truth = made(tmp_path, llama(tie=True), target_modules=["lm_head"], r=4, lora_alpha=6)
    stored = load_file(base / "model.safetensors")
    assert "lm_head.weight" not in stored
    if container == "bin":  # there, both names of the tied weight are stored
        torch.save(stored | {"lm_head.weight": stored["model.embed_tokens.weight"]}, base / "pytorch_model.bin")
        (base / "model.safetensors").unlink()
    assert list(require_right(base, adapter, truth)) == ["model.embed_tokens.weight"]


def test_embedding_and_head_adapted_while_tied_add_up_as_merging_does(tmp_path):
    base, adapter, truth = made(tmp_path, llama(tie=True), target_modules=["lm_head", "embed_tokens"], r=4)
    found = require_right(base, adapter, truth)
    assert found["model.embed_tokens.weight"].allotted == 8
    assert "tied weight adapted as" in found["model.embed_tokens.weight"].notes[0]


def test_tied_adapters_count_once(tmp_path):
    options = {"target_modules": ["embed_tokens", "lm_head"], "r": 4, "lora_alpha": 6, "ensure_weight_tying": True}
    base, adapter = made_without_merge(tmp_path, llama(tie=True), **options)
    stored = load_file(adapter / "adapter_model.safetensors")
    A, B = (stored[f"base_model.model.model.embed_tokens.lora_embedding_{factor}"] for factor in "AB")
    assert torch.equal(stored["base_model.model.lm_head.lora_A.weight"], B.T)
    require_right(base, adapter, {"model.embed_tokens.weight": 6 / 4 * (B @ A).T.double()})


@pytest.mark.parametrize("container", ["safetensors", "bin"])
def test_head_saved_in_full_while_tied_is_not_taken_for_the_embedding(tmp_path, container):
    model = llama(tie=True)
    base, adapter = made_without_merge(tmp_path, model, target_modules=["q_proj"], modules_to_save=["lm_head"])
    trained_head = load_file(adapter / "adapter_model.safetensors")["base_model.model.lm_head.weight"]
    stored = load_file(base / "model.safetensors")
    embedding = stored["model.embed_tokens.weight"]
    if container == "bin":
        torch.save(stored | {"lm_head.weight": embedding}, base / "pytorch_model.bin")
        (base / "model.safetensors").unlink()
    with open_pairs(base, adapter, include=["q_proj", "lm_head", "embed"]) as pairs:
        found = {pair.key: pair.update.dense() for pair in pairs if "q_proj" not in pair.key}
        reason = dict(pairs.skipped).get("base_model.model.lm_head.weight")
    if container == "bin":
        assert torch.equal(found.pop("lm_head.weight"), trained_head - embedding)
    else:
        assert reason == "in the base it is tied to 'model.embed_tokens.weight' and not stored"
    assert found == {}


def test_head_of_an_untied_model_is_never_the_embedding(tmp_path):
    base, adapter, _ = made(tmp_path, llama(), saved_base=llama(cls="LlamaModel"), target_modules=["lm_head", "q_proj"])
    with pytest.raises(MatchError, match=r"'lm_head'"):
        open_pairs(base, adapter)
    with open_pairs(base, adapter, allow_unmatched=True) as pairs:
        assert [key for key in pairs.keys if "q_proj" not in key] == []
        assert dict(pairs.skipped)["base_model.model.lm_head.lora_A.weight"] == "matches nothing in the base"


def as_pickle(adapter):
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()


def named_by_its_file(adapter):
    return adapter / "adapter_model.safetensors"


@pytest.mark.parametrize("change", [as_pickle, named_by_its_file])
def test_container_of_the_adapter_does_not_matter(tmp_path, change):
    base, adapter, truth = made(tmp_path, llama(), target_modules=LINEAR, r=4, lora_alpha=10)
    assert len(require_right(base, change(adapter) or adapter, truth)) == 14


def test_adapter_saved_by_peft_as_pickle_is_read(tmp_path):
    model = llama()
    save_model(model, tmp_path / "base")
    wrapped = trained(model, peft.LoraConfig(target_modules=["q_proj"], use_dora=True))
    wrapped.save_pretrained(tmp_path / "adapter", safe_serialization=False)
    assert (tmp_path / "adapter" / "adapter_model.bin").exists()
    truth = merged_update(wrapped, load_file(tmp_path / "base" / "model.safetensors"))
    require_right(tmp_path / "base", tmp_path / "adapter", truth)


@pytest.mark.parametrize("adapted", ["LlamaModel", "LlamaForCausalLM"])
def test_headless_and_headed_names_are_matched(tmp_path, adapted):
    torch.manual_seed(2)
    headed = llama()
    headless = headed.model
    model, other = (headless, headed) if adapted == "LlamaModel" else (headed, headless)
    save_model(model, tmp_path / "same")
    save_model(other, tmp_path / "base")
    options = {"target_modules": ["q_proj", "down_proj"], "modules_to_save": ["embed_tokens"]}
    wrapped = trained(model, peft.LoraConfig(r=4, alpha_pattern={"down_proj": 3}, **options))
    wrapped.save_pretrained(tmp_path / "adapter")
    with open_pairs(tmp_path / "same", tmp_path / "adapter") as pairs:
        same = {pair.key.removeprefix("model."): pair.update.dense() for pair in pairs}
    with open_pairs(tmp_path / "base", tmp_path / "adapter") as pairs:
        assert "the adapter's names match the base" in pairs.notes[-1]
        found = {pair.key.removeprefix("model."): pair.update.dense() for pair in pairs}
    assert found.keys() == same.keys()
    assert len(found) == 5
    assert all(torch.equal(found[key], same[key]) for key in found)


RAW = {
    "LoRA": (False, {"target_modules": ["q_proj", "embed_tokens"], "r": 4, "lora_alpha": 6}),
    "LoRA, tied": (True, {"target_modules": ["q_proj", "embed_tokens"], "r": 4, "lora_alpha": 6}),
    "DoRA": (False, {"target_modules": ["q_proj", "embed_tokens"], "r": 4, "use_dora": True}),
    "DoRA, tied": (True, {"target_modules": ["q_proj", "embed_tokens"], "r": 4, "use_dora": True}),
    "modules_to_save": (False, {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "embed_tokens"]}),
}


@pytest.mark.parametrize("name", RAW)
def test_raw_state_dict_with_the_adapter_name_in_its_keys_is_read(tmp_path, name):
    tie, options = RAW[name]
    torch.manual_seed(5)
    model = llama(tie=tie)
    save_model(model, tmp_path / "base")
    wrapped = trained(model, peft.LoraConfig(**options))
    wrapped.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    torch.save(wrapped.state_dict(), tmp_path / "adapter" / "adapter_model.bin")
    truth = merged_update(wrapped, load_file(tmp_path / "base" / "model.safetensors"))
    require_right(tmp_path / "base", tmp_path / "adapter", truth)
    with open_pairs(tmp_path / "base", tmp_path / "adapter") as pairs:
        copies = {key: reason for key, reason in pairs.skipped if ".base_layer." in key or ".original_module." in key}
    assert set(copies.values()) == {"a frozen copy of the base weight"}


def test_attention_of_a_raw_state_dict_is_read(tmp_path):
    model = Net()
    save_model(model, tmp_path / "base")
    wrapped = trained(model, peft.LoraConfig(target_modules=["attention"], r=4))
    wrapped.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    torch.save(wrapped.state_dict(), tmp_path / "adapter" / "adapter_model.bin")
    truth = merged_update(wrapped, load_file(tmp_path / "base" / "model.safetensors"))
    found = require_right(tmp_path / "base", tmp_path / "adapter", truth)
    assert "counted once" in found["attention.out_proj.weight"].notes[0]


@pytest.mark.parametrize("rows", [90, 100])
def test_resized_vocabulary_is_compared_on_the_common_rows(tmp_path, rows):
    torch.manual_seed(4)
    model = llama()
    save_model(model, tmp_path / "base")
    before = load_file(tmp_path / "base" / "model.safetensors")["lm_head.weight"]
    model.resize_token_embeddings(rows, mean_resizing=False)
    options = {"target_modules": ["q_proj", "lm_head"], "modules_to_save": ["embed_tokens"], "r": 4, "lora_alpha": 6}
    wrapped = trained(model, peft.LoraConfig(**options))
    wrapped.save_pretrained(tmp_path / "adapter")
    delta = wrapped.base_model.model.lm_head.get_delta_weight("default").detach()
    common = min(rows, 96)
    with open_pairs(tmp_path / "base", tmp_path / "adapter") as pairs:
        pair = pairs.pair("lm_head.weight")
        assert pairs.pair("model.embed_tokens.weight").shape == (common, 32)
    assert pair.to_stored(pair.base).shape == (common, 32)
    assert torch.equal(pair.base, before[:common])
    torch.testing.assert_close(pair.update.dense(), delta[:common])
    assert "rows that only" in pair.notes[0]


def test_dora_on_a_resized_vocabulary_is_refused(tmp_path):
    model = llama()
    save_model(model, tmp_path / "base")
    model.resize_token_embeddings(100, mean_resizing=False)
    trained(model, peft.LoraConfig(target_modules=["lm_head"], use_dora=True)).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UnsupportedError, match=r"'lm_head': DoRA on a resized vocabulary"):
        open_pairs(tmp_path / "base", tmp_path / "adapter")


def test_named_adapter_is_opened_by_its_subfolder(tmp_path):
    base, adapter, _ = made(tmp_path, llama(), name="second", target_modules=["q_proj"])
    assert not (adapter / "adapter_config.json").exists()
    with pytest.raises(InputError, match=r"holds no weights itself, but these do: second\. Name one"):
        open_pairs(base, adapter)
    with open_pairs(base, adapter / "second") as pairs:
        assert len(pairs) == 2


def test_adapters_in_subfolders_are_noted(tmp_path):
    base, adapter, _ = made(tmp_path, llama(), target_modules=["q_proj"])
    shutil.copytree(adapter, adapter / "other")
    with open_pairs(base, adapter) as pairs:
        assert pairs.notes == ("the adapters in its subfolders (other) are not read",)


def test_two_adapters_in_one_file_are_refused(tmp_path):
    base, adapter, _ = made(tmp_path, llama(), target_modules=["q_proj"])
    stored = load_file(adapter / "adapter_model.safetensors")
    doubled = {
        key.replace(".weight", f".{name}.weight"): value.clone() for key, value in stored.items() for name in "ab"
    }
    save_file(doubled, adapter / "adapter_model.safetensors")
    with pytest.raises(UnsupportedError, match=r"mixes several adapters or key styles in one file \(a, b\)"):
        open_pairs(base, adapter)


@pytest.mark.parametrize(("model", "options"), [CASES["Conv1D"], CASES["alpha is not r"], CASES["Linear, wrong flag"]])
def test_orientation_without_a_configuration(tmp_path, model, options):
    base, adapter, truth = made(tmp_path, model(), **options)
    (base / "config.json").unlink()
    require_right(base, adapter, truth)


def test_square_layers_of_unknown_architecture_follow_the_flag(tmp_path):
    base, adapter, truth = made(tmp_path, gpt2(), target_modules=["c_proj"], r=4, fan_in_fan_out=True)
    weights = load_file(base / "model.safetensors")
    kept = {key: value.clone() for key, value in weights.items() if "c_attn" not in key}
    renamed = json.loads((base / "config.json").read_text()) | {
        "model_type": "mine",
        "auto_map": {"AutoModel": "mine.Model"},
    }
    (base / "config.json").write_text(json.dumps(renamed))
    save_file(kept, base / "model.safetensors")
    require_right(base, adapter, {key: value for key, value in truth.items() if key in kept})


def test_orientation_of_a_live_module_is_its_class(tmp_path):
    torch.manual_seed(1)
    model = gpt2()
    _, adapter, _ = made(tmp_path, gpt2(), saved_base=model, target_modules=["c_proj"], fan_in_fan_out=True)
    live = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "base")
    live.config.model_type = "mine"
    with open_pairs(live, adapter) as pairs:
        assert pairs.keys
        for pair in pairs:
            assert pair.layout.kind == "transposed"
            update = pair.to_stored(pair.update.dense())
            assert update.shape == live.get_parameter(pair.key).shape


def test_activated_lora_is_noted(tmp_path):
    base, adapter = made_without_merge(
        tmp_path, llama(), target_modules=["q_proj"], task_type="CAUSAL_LM", alora_invocation_tokens=[1, 2]
    )
    with open_pairs(base, adapter) as pairs:
        assert any("acts only on the tokens after" in note for note in pairs.notes)


REFUSED = {
    "init_lora_weights='pissa_niter_4'": {"target_modules": ["q_proj"], "init_lora_weights": "pissa_niter_4"},
}


@pytest.mark.parametrize("word", REFUSED)
def test_what_is_not_plain_lora_is_refused_by_name(tmp_path, word):
    base, adapter = made_without_merge(tmp_path, llama(), **REFUSED[word])
    with pytest.raises(UnsupportedError, match=word):
        open_pairs(base, adapter)


OTHER_METHODS = {
    "PROMPT_TUNING": lambda: peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3),
}


@pytest.mark.parametrize("method", OTHER_METHODS)
def test_other_methods_are_refused_by_name(tmp_path, method):
    model = llama()
    save_model(model, tmp_path / "base")
    peft.get_peft_model(model, OTHER_METHODS[method]()).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UnsupportedError, match=rf"the adapter's method is .*{method}"):
        open_pairs(tmp_path / "base", tmp_path / "adapter")


def edited(adapter, change):
    stored = change(load_file(adapter / "adapter_model.safetensors"))
    save_file({key: value.contiguous() for key, value in stored.items()}, adapter / "adapter_model.safetensors")


Q = "base_model.model.model.layers.0.self_attn.q_proj"
FAULTS = {
    "misspelt module": (
        lambda s: {k.replace("q_proj", "q_porj"): v for k, v in s.items()},
        r"q_porj' matches nothing in the base \(the nearest there: '.*q_proj'",
    ),
    "missing factor": (
        lambda s: {k: v for k, v in s.items() if k != f"{Q}.lora_B.weight"},
        "q_proj': one of its factors is missing",
    ),
    "ranks disagree": (
        lambda s: s | {f"{Q}.lora_B.weight": s[f"{Q}.lora_B.weight"][:, :2]},
        r"B \[32, 2\] and A \[8, 32\] disagree",
    ),
    "other width": (
        lambda s: s | {f"{Q}.lora_A.weight": s[f"{Q}.lora_A.weight"][:, :9]},
        r"base is \[32, 32\] and .* is \[32, 9\]",
    ),
    "unknown tensor": (lambda s: s | {f"{Q}.mystery": torch.ones(3, 3)}, "q_proj.mystery"),
    "two spellings": (lambda s: s | {f"{Q}.lora_A": s[f"{Q}.lora_A.weight"] + 1}, "name the same factor"),
    "no factors": (lambda s: {"model.embed_tokens.weight": torch.ones(96, 32)}, "no LORA tensors"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faulty_adapter_is_refused_when_opened(tmp_path, name):
    change, message = FAULTS[name]
    base, adapter, _ = made(tmp_path, llama(), target_modules=["q_proj"], r=8)
    edited(adapter, change)
    with pytest.raises(MatchError, match=message):
        open_pairs(base, adapter)


def test_rank_that_disagrees_with_the_configuration_is_noted(tmp_path):
    base, adapter, _ = made(tmp_path, llama(), target_modules=["q_proj"], r=8, lora_alpha=16)
    edited(adapter, lambda stored: {k: v[:4] if "lora_A" in k else v[:, :4] for k, v in stored.items()})
    stored = load_file(adapter / "adapter_model.safetensors")
    with open_pairs(base, adapter) as pairs:
        pair = next(iter(pairs))
    torch.testing.assert_close(pair.update.dense(), 2 * stored[f"{Q}.lora_B.weight"] @ stored[f"{Q}.lora_A.weight"])
    assert "stored rank 4, but the configuration says 8" in pair.notes[0]


def test_adapter_beside_a_merged_model_is_what_is_read(tmp_path):
    base, adapter, truth = made(tmp_path, llama(), target_modules=["q_proj"])
    merged = {
        key: value + truth[key].float() if key in truth else value
        for key, value in load_file(base / "model.safetensors").items()
    }
    save_file(merged, adapter / "model.safetensors")
    with open_pairs(base, adapter) as pairs:
        assert pairs.info.method == "LoRA"
        assert "model.safetensors beside the adapter" in pairs.notes[-1]
    with open_pairs(base, adapter / "model.safetensors") as pairs:
        assert pairs.info.method == "full fine-tuning"
        torch.testing.assert_close(pairs.pair(f"{Q[17:]}.weight").update.dense(), truth[f"{Q[17:]}.weight"].float())
