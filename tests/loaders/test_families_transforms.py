"""The transforms of PEFT's other tuners, made with PEFT itself: dW is what PEFT's own merge adds, in float64."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from spectra import open_pairs
from spectra.errors import FormatError, MatchError, UnsupportedError

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

pytestmark = pytest.mark.filterwarnings("ignore")  # PEFT's own, about flags that it corrects


class Net(nn.Module):
    """Sizes that nothing divides, biases, an embedding and convolutions."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(37, 24)
        self.image = nn.Conv2d(6, 10, (3, 2))
        self.odd = nn.Linear(47, 33)
        self.wide = nn.Linear(63, 20)
        self.tall = nn.Linear(18, 51)


def llama(layers=2, tie=False):
    config = transformers.LlamaConfig(
        vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=tie,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def gpt2():
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=80, n_positions=16, n_embd=32, n_layer=2, n_head=2)
    )


def bert():
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=48,
        max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


QVD, CONV1D, NET = ["q_proj", "v_proj", "down_proj"], ["c_attn", "c_proj", "c_fc"], ["odd", "wide", "tall"]
BERT = ["query", "intermediate.dense", "output.dense"]


def case(model, name, targets, **options):
    return model, lambda: getattr(peft, f"{name}Config")(target_modules=list(targets), **options)


def variants(name, model, targets, **every):
    """One case a value of one option, the others as given; `option=[values]` is the one that varies."""
    ((option, values),) = ((key, value) for key, value in every.items() if isinstance(value, list))
    rest = {key: value for key, value in every.items() if key != option}
    return {
        f"{name} {model.__name__} {option}={value}": case(model, name, targets, **rest, **{option: value})
        for value in values
    }


CASES = {
    **variants("FourierFT", llama, QVD, n_frequency=[1, 9, 300]),
    **variants("FourierFT", gpt2, CONV1D, n_frequency=[7, 40], scaling=20.0),
    **variants("FourierFT", Net, NET, random_loc_seed=[0, 12345], n_frequency=8),
    "FourierFT patterns": case(llama, "FourierFT", QVD, n_frequency=5, n_frequency_pattern={"q_proj": 11}),
    **variants("WaveFT", llama, QVD, use_idwt=[True, False], n_frequency=9),
    **variants("WaveFT", Net, NET, wavelet_family=[*(f"db{n}" for n in range(1, 11)), "sym2", "sym3"], n_frequency=60),
    **variants("WaveFT", Net, NET, n_frequency=[1, 8, 17, 324], wavelet_family="db3"),
    **variants("WaveFT", gpt2, CONV1D, n_frequency=[12, 500], wavelet_family="db2"),
    "WaveFT proportional": case(llama, "WaveFT", QVD, n_frequency=20, proportional_parameters=True),
    **variants("VBLoRA", llama, QVD, save_only_topk_weights=[True, False], num_vectors=20, vector_length=16, r=3),
    **variants("VBLoRA", gpt2, CONV1D, topk=[1, 3], num_vectors=300, vector_length=8, save_only_topk_weights=True),
    **variants("RandLora", llama, QVD, r=[3, 4, 16, 40]),
    **variants("RandLora", gpt2, CONV1D, randlora_alpha=[7, 64], r=8),
    **variants("RandLora", Net, NET, sparse=[True, False], r=5),
    **variants("C3A", llama, QVD, block_size=[1, 4, 16]),
    "C3A bert": case(bert, "C3A", BERT, block_size=8),
    **variants("Shira", llama, QVD, r=[1, 4]),
    **variants("Supertuning", llama, QVD, r=[None, 3], sparsity=0.9),
    **variants("Supertuning", Net, NET, select_top=[True, False], save_precomputed_indices=False, r=2, lora_alpha=7.0),
    **variants("Glora", bert, BERT, config_A_B=["lora", "vector", "constant"], config_D_E="vector"),
    **variants("Gralora", llama, QVD, gralora_k=[1, 2, 4], r=8, alpha=12),
    **variants("Gralora", gpt2, CONV1D, hybrid_r=[0, 3], r=8, gralora_k=2),
    "Gralora dense": case(llama, "Gralora", QVD, r=16, gralora_k=4, hybrid_r=2),
    **variants("Delora", llama, QVD, r=[1, 4]),
    **variants("Hira", llama, [*QVD, "embed_tokens"], r=[1, 4]),
    "Hira gpt2": case(gpt2, "Hira", CONV1D, r=3),
    "Hira net": case(Net, "Hira", [*NET, "words", "image"], r=3),
    **variants("Psoft", llama, QVD, psoft_orth=[True, False], r=5, psoft_alpha=9),
    **variants("Psoft", bert, BERT, ab_svd_init=["psoft_init", "pissa_init"], r=4, psoft_alpha=32),
    **variants("Psoft", Net, NET, num_cayley_neumann_terms=[1, 2, 3, 4, 5, 6, 8], r=4, use_cayley_neumann=True),
    **variants("Psoft", Net, NET, cayley_neumann_eps=[0.1, 0.9], r=4, use_cayley_neumann=True),
    **variants("Psoft", bert, BERT, psoft_mag_a=[True, False], psoft_mag_b=False, r=4),
    **variants("OSF", llama, QVD, effective_rank=[0.5, 10, 15, 28]),
    "OSF patterns": case(Net, "OSF", NET, effective_rank=12, rank_pattern={"odd": 0.9}),
    **variants("TinyLora", llama, QVD, weight_tying=[0.0, 0.4, 1.0], r=2, u=5),
    **variants("TinyLora", gpt2, CONV1D, save_projection=[True, False], r=3, u=4),
    **variants("TinyLora", bert, BERT, save_projection=[True, False], r=3, u=4, weight_tying=0.5),
    **variants("UniLora", llama, QVD, theta_d_length=[7, 64, 5000], r=3),
    **variants("UniLora", gpt2, CONV1D, save_indices=[True, False], theta_d_length=50),
    **variants("UniLora", bert, BERT, proj_seed=[0, 5], theta_d_length=100),
    "UniLora pattern": (llama, lambda: peft.UniLoraConfig(target_modules=r".*\.(q|v)_proj", theta_d_length=20)),
    "UniLora layers": case(llama, "UniLora", QVD, layers_to_transform=[1], theta_d_length=20),
    "UniLora twelve layers": (lambda: llama(12), lambda: peft.UniLoraConfig(target_modules=QVD, theta_d_length=99)),
    "TinyLora twelve layers": (lambda: llama(12), lambda: peft.TinyLoraConfig(target_modules=QVD, weight_tying=0.8)),
    "Frod llama": case(llama, "Frod", QVD, sparse_rate=0.05),
    "Frod gpt2": case(gpt2, "Frod", CONV1D),
    "Frod bert": case(bert, "Frod", [*BERT, "attention.output.dense"]),
    **variants("Deft", llama, QVD, decomposition_method=["qr", "relu"], r=4),
    **variants("Deft", gpt2, CONV1D, para=[True, False], decomposition_method="qr", r=3, alpha=7.0),
    **variants("Peanut", llama, QVD, depth=[0, 1, 3], r=4, scaling=0.7),
    **variants("Peanut", Net, NET, r=[3], depth=1, act_fn="gelu_new"),
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def made(folder, model, config, dtype="float32"):
    """Save a base and an adapter whose every number is trained; return the folder and dW as PEFT loads it from there.

    dtype : that of the base, stored and loaded. What PEFT computes, it computes in float64 from what it has loaded.
    """
    dtype, base = getattr(torch, dtype), model().to(getattr(torch, dtype))
    for parameter in base.parameters():
        nn.init.normal_(parameter, std=0.3)
    (folder / "base").mkdir(parents=True)
    tied = getattr(getattr(base, "config", None), "tie_word_embeddings", False)
    stored = {key: value for key, value in base.state_dict().items() if not (tied and key == "lm_head.weight")}
    save_file(stored, folder / "base" / "model.safetensors", {"format": "pt"})
    if hasattr(base, "config"):
        base.config.save_pretrained(folder / "base")
    wrapped = peft.get_peft_model(base, config())
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
    wrapped.save_pretrained(folder / "adapter")
    again = model().to(dtype)
    again.load_state_dict(stored, strict=not tied)
    return folder, loaded_delta(again, folder)


def loaded_delta(base, folder):
    """Return what PEFT's merge adds to each weight, in float64."""
    wrapped = peft.PeftModel.from_pretrained(base, folder / "adapter").double()
    before = {key: value.double() for key, value in load_file(folder / "base" / "model.safetensors").items()}
    after = wrapped.merge_and_unload().state_dict()
    return {key: after[key] - before[key] for key in before if before[key].ndim > 1}


def read(folder, base=None):
    """Return dW of every pair in the stored layout, and the pairs."""
    with open_pairs(folder / "base" if base is None else base, folder / "adapter") as pairs:
        found = list(pairs)
    return {pair.key: pair.to_stored(pair.update.dense()).double() for pair in found}, found


def require_same(found, true, rtol=1e-5):
    touched = {key for key, value in true.items() if value.any()}
    assert touched
    assert touched == {key for key, value in found.items() if value.any()}
    for key in touched:
        torch.testing.assert_close(found[key], true[key], rtol=rtol, atol=rtol * true[key].abs().max().item())


@pytest.mark.parametrize("name", CASES)
def test_update_is_what_peft_merges(tmp_path, name):
    folder, true = made(tmp_path, *CASES[name])
    found, pairs = read(folder)
    require_same(found, true)
    for pair in pairs:
        if pair.update.factors is not None:
            B, A = pair.update.factors
            assert B.shape[1] < min(pair.shape) or pair.update.kind == "low rank"
            torch.testing.assert_close(B.double() @ A.double(), pair.update.dense().double(), rtol=1e-4, atol=1e-5)


HALF = {
    "OSF": case(llama, "OSF", QVD, effective_rank=12),
    "PSOFT": case(llama, "Psoft", QVD, r=4, psoft_alpha=9),
    "FRoD": case(llama, "Frod", QVD),
    "DEFT": case(llama, "Deft", QVD, decomposition_method="qr", r=4),
    "TinyLoRA": case(llama, "TinyLora", QVD, save_projection=False, r=3, u=4),
    "Uni-LoRA": case(llama, "UniLora", QVD, theta_d_length=200),
    "PEANuT": case(llama, "Peanut", QVD, r=4, act_fn="silu"),
    "HiRA": case(llama, "Hira", QVD, r=4),
}


@pytest.mark.parametrize("name", HALF)
def test_what_peft_rounds_to_the_dtype_of_the_base_is_rounded(tmp_path, name):
    folder, true = made(tmp_path, *HALF[name], dtype="bfloat16")
    require_same(read(folder)[0], true, rtol=2e-4 if name == "OSF" else 2e-5)


def test_glora_without_its_parts_changes_nothing(tmp_path):
    folder, true = made(tmp_path, *case(bert, "Glora", BERT, config_A_B="none"))
    found, pairs = read(folder)
    assert not any(value.any() for value in (*true.values(), *found.values()))
    assert {pair.update.factors[0].shape[1] for pair in pairs} == {0}


KINDS = {
    "fourier, few": ("FourierFT", {"n_frequency": 9}, "low rank", 18),
    "fourier, many": ("FourierFT", {"n_frequency": 16}, "formed", None),
    "wavelets, few": ("WaveFT", {"n_frequency": 9}, "low rank", 8),  # two of the nine stand in one row
    "entries": ("WaveFT", {"n_frequency": 9, "use_idwt": False}, "sparse", None),
    "SHiRA": ("Shira", {"r": 2}, "sparse", None),
    "HiRA": ("Hira", {"r": 2}, "elementwise", None),
    "GraLoRA": ("Gralora", {"r": 4}, "low rank", 8),
    "OSF": ("OSF", {"effective_rank": 30}, "sum", 4),
    "PSOFT": ("Psoft", {"r": 4}, "low rank", 4),
    "DeLoRA": ("Delora", {"r": 4}, "low rank", 4),
}


@pytest.mark.parametrize("name", KINDS)
def test_the_cheapest_exact_structure_is_given(tmp_path, name):
    method, options, kind, rank = KINDS[name]
    folder, _ = made(tmp_path, *case(llama, method, ["q_proj"], **options))
    _, (pair, *_) = read(folder)
    factors = pair.update.factors
    assert (pair.update.kind, factors and factors[0].shape[1]) == (kind, rank)


def test_the_real_part_of_a_few_waves_has_twice_their_rank(tmp_path):
    _, true = made(tmp_path, *case(llama, "FourierFT", ["q_proj"], n_frequency=5))
    for value in (value for value in true.values() if value.any()):
        assert 5 < torch.linalg.matrix_rank(value, rtol=1e-5) <= 10


@pytest.mark.parametrize("name", [*(f"db{n}" for n in range(1, 11)), "sym2", "sym3"])
def test_filters_from_their_definition_are_those_of_the_tables(name):
    from peft.tuners.waveft.wavelet import Wavelet

    from spectra.loaders.adapters.families.wavelets import highpass, lowpass

    table = Wavelet(name)
    low = lowpass(name)
    torch.testing.assert_close(low, torch.tensor(table.rec_lo, dtype=torch.float64), rtol=0, atol=2e-8)
    torch.testing.assert_close(highpass(low), torch.tensor(table.rec_hi, dtype=torch.float64), rtol=0, atol=2e-8)
    for shift in range(2, len(low), 2):  # orthogonal to its own moves by two
        assert abs(float(low[shift:] @ low[:-shift])) < 1e-9
    assert abs(float(low @ low) - 1) < 1e-9


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_new", "gelu_fast", "gelu_10", "gelu_pytorch_tanh",
    "gelu_accurate", "gelu_python", "gelu_python_tanh", "hardswish", "laplace", "leaky_relu", "linear", "mish",
    "quick_gelu", "relu2", "relu6", "sigmoid", "silu", "swish", "tanh", "sqrtsoftplus"])  # fmt: skip
def test_activations_are_those_of_transformers(activation):
    from transformers.activations import ACT2FN

    from spectra.loaders.adapters.families.peanut import _ACTIVATIONS

    x = torch.linspace(-20, 20, 4001, dtype=torch.float64)
    torch.testing.assert_close(_ACTIVATIONS[activation](x), ACT2FN[activation](x), rtol=1e-6, atol=1e-6)


def test_no_activation_without_parameters_is_left_out():
    from transformers.activations import ACT2CLS

    from spectra.loaders.adapters.families.peanut import _ACTIVATIONS

    assert ACT2CLS.keys() - _ACTIVATIONS.keys() <= {"prelu", "xielu"}


ARCHITECTURES = {
    "llama": {}, "mistral": {}, "qwen2": {}, "qwen3": {}, "gemma": {}, "gemma2": {}, "gemma3_text": {}, "olmo": {},
    "olmo2": {}, "granite": {}, "smollm3": {"pad_token_id": 0}, "phi3": {"pad_token_id": 0}, "gpt2": {"n_embd": 32, "n_head": 4, "n_layer": 2},
    "gpt_neox": {}, "bloom": {"n_layer": 2, "n_head": 4}, "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32}, "bert": {}, "roberta": {},
    "xlm-roberta": {}, "camembert": {}, "electra": {},
    "distilbert": {"dim": 32, "hidden_dim": 48, "n_heads": 4, "n_layers": 2},
}  # fmt: skip


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_the_order_within_layers_is_that_of_the_model_s_own_code(kind):
    from spectra.loaders.traversal import WITHIN, in_order

    sizes = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4, "head_dim": 8, "max_position_embeddings": 64,
    }  # fmt: skip
    config = transformers.AutoConfig.for_model(kind, **{**sizes, **ARCHITECTURES[kind]})
    with torch.device("meta"):
        model = transformers.AutoModel.from_config(config)
    linear = (nn.Linear, transformers.pytorch_utils.Conv1D)
    walked = [name for name, module in model.named_modules() if isinstance(module, linear)]
    inside = [
        name for name in walked if any(f".{layer}.{rest}" in f".{name}" for layer in "01" for rest in WITHIN[kind])
    ]
    assert len(inside) == 2 * len(WITHIN[kind])
    assert in_order(sorted(inside, reverse=True), {"model_type": kind}, None) == inside


def test_every_architecture_of_the_order_is_held_against_transformers():
    from spectra.loaders.traversal import WITHIN

    assert WITHIN.keys() == ARCHITECTURES.keys()


@pytest.mark.parametrize("config", [{}, {"model_type": "mamba"}, {"model_type": "llama", "auto_map": {}}])
def test_the_order_of_an_unknown_architecture_is_not_guessed(config):
    from spectra.loaders.traversal import in_order

    modules = ["model.layers.0.self_attn.q_proj", "model.layers.0.self_attn.v_proj"]
    assert in_order(modules, config, None) is None
    assert in_order(modules, config, modules[::-1]) == modules[::-1]
    assert in_order([*modules, "lm_head"], {"model_type": "llama"}, None) is None
    two = ["encoder.layers.0.fc1", "decoder.layers.0.fc1"]
    assert in_order(two, {"model_type": "opt"}, None) is None


@pytest.mark.parametrize("method", ["UniLora", "TinyLora"])
def test_a_model_in_memory_tells_the_order_of_an_unknown_architecture(tmp_path, method):
    options = {"theta_d_length": 50} if method == "UniLora" else {"save_projection": False}
    folder, true = made(tmp_path, *case(Net, method, NET, **options))
    with pytest.raises(UnsupportedError, match="order of the modules"):
        read(folder)
    model = Net()
    model.load_state_dict(load_file(folder / "base" / "model.safetensors"))
    require_same(read(folder, model)[0], true)


def test_modules_are_targeted_by_peft_s_own_rules():
    from peft.tuners.tuners_utils import check_target_module_exists

    from spectra.loaders.adapters.config import read_config
    from spectra.loaders.adapters.targets import targeted

    names = [name for name, _ in llama(12).named_modules() if name]
    for options in (
        {"target_modules": ["q_proj", "mlp.up_proj"]},
        {"target_modules": "model.layers.(1|2).self_attn.[qk]_proj"},
        {"target_modules": ["q_proj", "model.layers.3.mlp.up_proj"], "layers_to_transform": [1, 10]},
        {"target_modules": ["v_proj"], "layers_to_transform": 2},
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["layers.1.self_attn.v_proj"]},
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": r"model\.layers\.1\..*"},
        {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["v_proj"]},
    ):
        config = peft.LoraConfig(**options)
        expected = [name for name in names if check_target_module_exists(config, name) is True or
                    type(check_target_module_exists(config, name)).__name__ == "Match"]  # fmt: skip
        assert expected, options
        assert targeted(read_config({"peft_type": "UNILORA", **options}), names) == expected, options


def adapter_of(folder, tensors, **config):
    """Write an adapter by hand."""
    folder.mkdir(exist_ok=True)
    save_file({f"base_model.model.{key}": value.contiguous() for key, value in tensors.items()},
              folder / "adapter_model.safetensors")  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def changed(folder, **options):
    """Change the configuration of an adapter that PEFT wrote."""
    path = folder / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **options}))


def without(folder, part, **options):
    """Leave tensors out of an adapter that PEFT wrote."""
    path = folder / "adapter" / "adapter_model.safetensors"
    kept = {key: value for key, value in load_file(path).items() if part not in key}
    save_file(kept, path)
    changed(folder, **options)


@pytest.mark.parametrize("splits", [1, 2])
def test_poly_of_one_task_is_what_its_layer_adds(tmp_path, splits):
    config = lambda: peft.PolyConfig(target_modules=QVD, n_tasks=1, n_skills=3, n_splits=splits, r=4)  # noqa: E731
    torch.manual_seed(1)
    base = llama()
    (tmp_path / "base").mkdir()
    save_file(base.state_dict(), tmp_path / "base" / "model.safetensors")
    wrapped = peft.get_peft_model(base, config())
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn_like(parameter)
    wrapped.save_pretrained(tmp_path / "adapter")
    wrapped.double().eval()
    found, _ = read(tmp_path)
    for name, module in wrapped.base_model.model.named_modules():
        if hasattr(module, "poly_lora_A"):
            eye = torch.eye(module.in_features, dtype=torch.float64)[None]
            task = torch.zeros(1, dtype=torch.long)
            added = module(eye, task_ids=task) - module.base_layer(eye)
            torch.testing.assert_close(found[f"{name}.weight"], added[0].T.detach(), rtol=1e-5, atol=1e-6)


def test_of_several_tasks_one_can_be_kept(oracle, tmp_path):
    """The sentence that refuses a Poly adapter of several tasks says how; doing so gives that task's update."""
    tuned = oracle / "poly" / "adapter"
    for task in (0, 1):
        folder = tmp_path / str(task)
        (folder / "adapter").mkdir(parents=True)
        tensors = load_file(tuned / "adapter_model.safetensors")
        kept = {k: v[task : task + 1].contiguous() if k.endswith("module_logits") else v for k, v in tensors.items()}
        save_file(kept, folder / "adapter" / "adapter_model.safetensors")
        config = json.loads((tuned / "adapter_config.json").read_text())
        (folder / "adapter" / "adapter_config.json").write_text(json.dumps({**config, "n_tasks": 1}))
        true = load_file(oracle / "poly" / f"truth_task{task}.safetensors")
        with open_pairs(oracle / "poly" / "base", folder / "adapter") as pairs:
            found = {pair.key: pair.update.dense() for pair in pairs}
        for key, value in true.items():
            if value.any():
                torch.testing.assert_close(found[key], value.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("model", "targets"), [(llama, QVD), (bert, BERT)])
@pytest.mark.parametrize("options", [{}, {"use_dynamic_rank": True, "random_seed": 3}])
def test_adamss_finds_the_clusters_of_training_again(tmp_path, model, targets, options):
    pytest.importorskip("sklearn")
    given = {"r": 8, "num_subspaces": 3, "subspace_rank": 2, "init_weights": None, **options}
    folder, true = made(tmp_path, *case(model, "Adamss", targets, **given))
    require_same(read(folder)[0], true)


def test_adamss_on_another_base_is_refused(oracle, tmp_path):
    base = load_file(oracle / "adamss" / "base" / "model.safetensors")
    key = "model.layers.0.self_attn.q_proj.weight"
    save_file({**base, key: base[key].flip(0).contiguous()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((oracle / "adamss" / "base" / "config.json").read_text())
    with (
        open_pairs(tmp_path, oracle / "adamss" / "adapter", include="layers.0.self_attn.q_proj") as pairs,
        pytest.raises(UnsupportedError, match="which rows its clusters have"),
    ):
        list(pairs)


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("indices", [[3, 90, 7], {"embed_tokens": [3, 90, 7]}])
def test_rows_that_lora_replaces_are_differences_to_the_base(tmp_path, tie, indices):
    config = lambda: peft.LoraConfig(target_modules=["q_proj"], trainable_token_indices=indices)  # noqa: E731
    folder, true = made(tmp_path, lambda: llama(tie=tie), config)
    found, pairs = read(folder)
    require_same(found, true)
    (pair,) = [pair for pair in pairs if "embed" in pair.key]
    assert (pair.update.kind, pair.allotted) == ("low rank", 3)
    assert pair.update.dense().any(dim=1).nonzero().flatten().tolist() == [3, 7, 90]


@pytest.mark.parametrize("targets", [["embed_tokens"], ["embed_tokens", "lm_head"]])
def test_rows_of_the_stand_alone_tuner_and_of_an_untied_head(tmp_path, targets):
    config = lambda: peft.TrainableTokensConfig(target_modules=targets, token_indices=[5, 1])  # noqa: E731
    folder, true = made(tmp_path, llama, config)
    require_same(read(folder)[0], true)


def test_more_tokens_than_dimensions_are_read_in_full(tmp_path):
    config = lambda: peft.TrainableTokensConfig(target_modules=["embed_tokens"], token_indices=[*range(40)])  # noqa: E731
    folder, true = made(tmp_path, llama, config)
    found, (pair,) = read(folder)
    require_same(found, true)
    assert pair.update.kind == "formed"


def gates(tmp_path, **gates):
    W = torch.randn(6, 4)
    save_file({"fc.weight": W, "head.weight": torch.randn(2, 6)}, tmp_path / "model.safetensors")
    rows, columns = gates.get("rows", torch.randn(6)), gates.get("columns", torch.randn(4))
    tensors = {"fc.finegates_rows": rows, "fc.finegates_columns": columns, "head.weight": torch.randn(2, 6)}
    return W, adapter_of(tmp_path / "adapter", tensors, peft_type="FINEGATES", modules_to_save=["head"])


def test_finegates_scale_both_sides_of_the_base(tmp_path):
    rows = torch.tensor([-9.0, -0.3, 0.0, 0.2, 1.0, 9.0])
    W, adapter = gates(tmp_path, rows=rows, columns=torch.tensor([-1.0, 0.1, 0.4, 2.0]))
    with open_pairs(tmp_path, adapter) as pairs:
        found = {pair.key: pair.update.dense() for pair in pairs}
    shut = [0.0, 0.5 - 0.291312612, 0.5, 0.5 + 0.197375320, 1.0, 1.0]  # tanh(-0.3), tanh(0.2)
    across = torch.tensor([0.0, 0.5 + 0.099667995, 0.5 + 0.379948962, 1.0])  # tanh(-1) < -1/2; tanh(0.1), tanh(0.4)
    torch.testing.assert_close(found["fc.weight"], torch.tensor(shut)[:, None] * W * across - W)
    assert found.keys() == {"fc.weight", "head.weight"}


def test_open_gates_leave_the_base_alone(tmp_path):
    _, adapter = gates(tmp_path, rows=torch.ones(6), columns=torch.ones(4))
    with open_pairs(tmp_path, adapter, include="fc") as pairs:
        (pair,) = pairs
    assert not pair.update.dense().any()


@pytest.mark.parametrize("method", ["BEFT", "LN_TUNING"])
def test_where_only_vectors_are_trained_a_head_beside_them_is_read(tmp_path, method):
    config = {
        "BEFT": lambda: peft.BeftConfig(target_modules=["query"], modules_to_save=["classifier"]),
        "LN_TUNING": lambda: peft.LNTuningConfig(target_modules=["LayerNorm"], modules_to_save=["classifier"]),
    }[method]
    base = bert()
    save_file(base.state_dict(), tmp_path / "model.safetensors")
    wrapped = peft.get_peft_model(base, config())
    nn.init.normal_(wrapped.base_model.model.classifier.modules_to_save["default"].weight)
    wrapped.save_pretrained(tmp_path / "adapter")
    with open_pairs(tmp_path, tmp_path / "adapter") as pairs:
        (pair,) = pairs
        reasons = {reason for key, reason in pairs.skipped if "beft" in key or "ln_tuning" in key}
    saved = wrapped.base_model.model.classifier.modules_to_save["default"].weight.detach()
    assert pair.key == "classifier.weight"
    torch.testing.assert_close(pair.tuned(), saved)
    assert reasons == {"a trained bias or norm: a vector, no singular vectors"}


REFUSED = {
    "RandLoRA without its bases": (case(llama, "RandLora", QVD, save_projection=False), {}, "save_projection=True"),
    "FRoD without its bases": (case(llama, "Frod", QVD, save_projection=False), {}, "save_projection=False"),
    "a wavelet of another family": (case(llama, "WaveFT", QVD, n_frequency=9, wavelet_family="coif1"), {}, "coif1"),
    "an approximate SVD": (
        case(llama, "Psoft", QVD, r=4, psoft_svd="lowrank", psoft_svd_lowrank_niter=4),
        {},
        "lowrank",
    ),
    "Uni-LoRA before it was released": (
        case(llama, "UniLora", QVD, theta_d_length=9),
        {"peft_version": None},
        "save_indices=True",
    ),
    "an activation with parameters": (case(llama, "Peanut", QVD, r=4), {"act_fn": "prelu"}, "prelu"),
    "a decomposition nobody knows": (case(llama, "Deft", QVD, r=4), {"decomposition_method": "lu"}, "'lu'"),
    "an unknown start of PSOFT": (case(llama, "Psoft", QVD, r=4), {"ab_svd_init": "x"}, "ab_svd_init='x'"),
    "several tasks": (case(llama, "Poly", QVD, n_tasks=2), {}, "each of its 2 tasks"),
    "BEFT": (case(bert, "Beft", ["query"]), {}, "only biases or norms"),
    "layer norms": (case(llama, "LNTuning", ["norm"]), {}, "only biases or norms"),
    "Lily": (case(llama, "Lily", QVD, r=4, stride_A=2, num_B=2), {}, "anew for every input"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_had_is_refused_in_one_sentence(tmp_path, name):
    (model, config), options, fragment = REFUSED[name]
    base = model()
    (tmp_path / "base").mkdir()
    save_file(base.state_dict(), tmp_path / "base" / "model.safetensors")
    peft.get_peft_model(base, config()).save_pretrained(tmp_path / "adapter")
    changed(tmp_path, **options)
    with pytest.raises(UnsupportedError) as refusal:
        read(tmp_path)
    assert fragment in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_supertuning_places_of_equal_magnitude_are_not_guessed(tmp_path):
    W = torch.randn(8, 8)
    W[0, 0], W[7, 7] = 9.0, -9.0
    save_file({"fc.weight": W}, tmp_path / "model.safetensors")
    values = {"fc.supertuning_values": torch.randn(6)}
    adapter = adapter_of(tmp_path / "adapter", values, peft_type="SUPERTUNING", select_top=True)
    with open_pairs(tmp_path, adapter) as pairs, pytest.raises(UnsupportedError, match="equal in magnitude"):
        list(pairs)


def test_a_rotation_within_equal_singular_values_is_refused(tmp_path):
    save_file({"fc.weight": torch.eye(6)}, tmp_path / "model.safetensors")
    rotation = {"fc.psoft_R.weight": torch.randn(1), "fc.psoft_R.vector_a": torch.ones(2)}
    adapter = adapter_of(tmp_path / "adapter", rotation, peft_type="PSOFT", r=2)
    with open_pairs(tmp_path, adapter) as pairs, pytest.raises(UnsupportedError, match="two singular values"):
        list(pairs)


def test_osf_is_refused_where_the_cut_goes_through_equal_values_only(tmp_path):
    save_file({"fc.weight": torch.diag(torch.tensor([3.0, 2.0, 1.0, 1.0, 0.0, 0.0]))}, tmp_path / "model.safetensors")
    for trained, refused in ((3, True), (2, False), (1, False), (4, False)):
        U, S, V = torch.randn(6, trained), torch.randn(trained), torch.randn(trained, 6)
        parts = {f"fc.osf_svd_params.{name}_low": value for name, value in (("U", U), ("S", S), ("V", V))}
        adapter = adapter_of(tmp_path / "adapter", parts, peft_type="OSF")
        with open_pairs(tmp_path, adapter) as pairs:
            if refused:
                with pytest.raises(UnsupportedError, match="two singular values"):
                    list(pairs)
            else:
                kept = torch.diag(torch.tensor([3.0, 2.0, 1.0, 1.0, 0.0, 0.0][: 6 - trained] + [0.0] * trained))
                (pair,) = pairs
                torch.testing.assert_close(pair.tuned(), kept + U * S @ V, rtol=1e-5, atol=1e-5)


def test_the_adapters_of_xlora_are_named_and_read_one_at_a_time(oracle):
    folder = oracle / "xlora"
    with pytest.raises(UnsupportedError, match=r"a \(.*experts/e0\), b \(.*experts/e1\)"):
        open_pairs(folder / "base", folder / "adapter")
    for number in (0, 1):
        true = load_file(folder / f"truth_expert{number}.safetensors")
        with open_pairs(folder / "base", folder / "experts" / f"e{number}") as pairs:
            found = {pair.key: pair.update.dense() for pair in pairs}
        assert found
        for key, value in found.items():
            torch.testing.assert_close(value, true[key].float(), rtol=1e-5, atol=1e-6)


FAULTS = {
    "a part missing": (case(llama, "Delora", QVD), "delora_B", {}, MatchError, "one of its factors is missing"),
    "norms missing": (case(llama, "Delora", QVD), "w_norm", {}, MatchError, "delora_w_norm is missing"),
    "indices missing": (case(llama, "Shira", QVD, r=2), "indices", {}, MatchError, "places are missing"),
    "a bank missing": (
        case(llama, "VBLoRA", QVD, num_vectors=9, vector_length=8),
        "bank",
        {},
        MatchError,
        "vector_bank",
    ),
    "a seed missing": (
        case(llama, "FourierFT", QVD, n_frequency=9),
        "no",
        {"random_loc_seed": None},
        FormatError,
        "seed",
    ),
    "a seed that is none": (
        case(llama, "WaveFT", QVD, n_frequency=9),
        "no",
        {"random_loc_seed": 2.5},
        FormatError,
        "2.5",
    ),
    "rows of LoRA missing": (
        case(llama, "Lora", ["q_proj"], trainable_token_indices=[1, 2]),
        "token_adapter",
        {},
        MatchError,
        "replaces rows of the embedding",
    ),
    "no tokens named": (
        case(llama, "TrainableTokens", ["embed_tokens"], token_indices=[1, 2]),
        "no",
        {"token_indices": None},
        FormatError,
        "lists no tokens",
    ),
    "other tokens named": (
        case(llama, "TrainableTokens", ["embed_tokens"], token_indices=[1, 2]),
        "no",
        {"token_indices": [1, 2, 3]},
        MatchError,
        "names 3 tokens",
    ),
    "a token twice": (
        case(llama, "TrainableTokens", ["embed_tokens"], token_indices=[1, 2]),
        "no",
        {"token_indices": [2, 2]},
        FormatError,
        "a token twice",
    ),
    "a token beyond the vocabulary": (
        case(llama, "TrainableTokens", ["embed_tokens"], token_indices=[1, 2]),
        "no",
        {"token_indices": [1, 96]},
        UnsupportedError,
        "token 96 is trained",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_faulty_file_is_refused(tmp_path, name):
    made_of, part, options, error, fragment = FAULTS[name]
    folder, _ = made(tmp_path, *made_of)
    without(folder, part, **options)
    with pytest.raises(error) as refusal:
        read(folder)
    assert fragment in str(refusal.value)


def test_a_direction_of_no_length_adds_nothing(tmp_path):
    """DeLoRA divides by the norms of its directions, but never by less than 1e-4."""
    save_file({"fc.weight": torch.randn(5, 4)}, tmp_path / "model.safetensors")
    A, B = torch.randn(2, 4), torch.randn(5, 2)
    A[0], B[:, 1] = 0, 0
    parts = {"A": A, "B": B, "lambda": torch.tensor([3.0]), "w_norm": torch.ones(4)}
    tensors = {f"fc.delora_{name}": value for name, value in parts.items()}
    with open_pairs(tmp_path, adapter_of(tmp_path / "adapter", tensors, peft_type="DELORA", r=2)) as pairs:
        (pair,) = pairs
    assert torch.equal(pair.update.dense(), torch.zeros(5, 4))


@pytest.mark.parametrize("method", ["TinyLora", "Vera"])
def test_what_depends_on_all_modules_is_not_read_from_some(tmp_path, method):
    folder, _ = made(tmp_path, *case(llama, method, ["q_proj", "down_proj"], save_projection=False))
    path = folder / "base" / "model.safetensors"
    save_file({key: value for key, value in load_file(path).items() if "1.mlp.down_proj" not in key}, path)
    with (
        open_pairs(folder / "base", folder / "adapter", allow_unmatched=True) as pairs,
        pytest.raises(MatchError, match="depends on all of them"),
    ):
        list(pairs)


def test_rows_and_factors_of_one_embedding_are_refused(tmp_path):
    save_file({"words.weight": torch.randn(9, 4)}, tmp_path / "model.safetensors")
    tensors = {
        "words.lora_embedding_A": torch.randn(2, 9),
        "words.lora_embedding_B": torch.randn(4, 2),
        "words.token_adapter.trainable_tokens_delta": torch.randn(1, 4),
    }
    given = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "trainable_token_indices": {"words": [3]}}
    with pytest.raises(UnsupportedError, match="by LORA and by TRAINABLE_TOKENS at once"):
        open_pairs(tmp_path, adapter_of(tmp_path / "adapter", tensors, **given))
