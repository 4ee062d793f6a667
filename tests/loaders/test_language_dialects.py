"""The dialects of language models: MLX, torchtune, loralib, AdapterHub, LoRMA, llama.cpp, NeMo, bare numbers, LoRS.

Cases made with the libraries themselves are in test_oracle; here stand what those cases leave out (other options,
other layouts, other files of the same adapter), each against its formula written out in float64, and the refusals.
"""

import io
import json
import math
import struct
import zipfile

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file

from spectra import open_pairs
from spectra.errors import FormatError, InputError, MatchError, UnsafeFileError, UnsupportedError, UsageError

HEADS, KV, WIDTH, RANK = 4, 2, 32, 3
LLAMA = {"model_type": "llama", "num_attention_heads": HEADS, "num_key_value_heads": KV, "hidden_size": WIDTH}
Q, K, V, OUT = (f"model.layers.0.self_attn.{name}_proj" for name in "qkvo")


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def model(folder, weights, config=None):
    """Write a base of these shapes, or tensors; return its folder and its tensors."""
    drawn = {
        key: (one if isinstance(one, torch.Tensor) else draw(*one, seed=place)).contiguous()
        for place, (key, one) in enumerate(weights.items())
    }
    folder.mkdir(exist_ok=True)
    save_file(drawn, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder, drawn


def adapter(folder, tensors, config=None, name="adapter_model.safetensors", settings="adapter_config.json"):
    folder.mkdir(exist_ok=True)
    tensors = {key: tensor.contiguous() for key, tensor in tensors.items()}
    if name.endswith(".npz"):
        numpy.savez(folder / name, **{key: tensor.numpy() for key, tensor in tensors.items()})
    elif name.endswith(".safetensors"):
        save_file(tensors, folder / name)
    else:
        torch.save(tensors, folder / name)
    if config is not None:
        (folder / settings).write_text(json.dumps(config))
    return folder


def read(base, tuned, **options):
    """Return dW of every pair in its stored layout, by key or by key and expert, and the pairs themselves."""
    with open_pairs(base, tuned, **options) as pairs:
        every = list(pairs)
        found = {
            pair.key if pair.index is None else (pair.key, pair.index): pair.to_stored(pair.update.dense()).double()
            for pair in every
        }
    assert len(found) == len(every)
    return found, pairs, every


def close(found, expected):
    assert found.keys() >= expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-5, atol=1e-5)


def refusal(base, tuned, *fragments, kind=UnsupportedError, **options):
    with pytest.raises(kind) as caught:
        read(base, tuned, **options)
    message = str(caught.value)
    assert all(fragment in message for fragment in fragments), message
    assert message.endswith((".", "?"))
    assert message.isprintable()
    assert len(message) < 500


# MLX


def mlx(scale=2.5, kind="lora", rank=RANK, **more):
    config = {"lora_parameters": {"rank": rank, "scale": scale, **more}, "num_layers": 1, "model": "some/base"}
    return config | ({"fine_tune_type": kind} if kind else {})


def mlx_factors(module, rows, columns, rank=RANK):
    return {f"{module}.lora_a": draw(columns, rank), f"{module}.lora_b": draw(rank, rows, seed=1)}


@pytest.mark.parametrize("name", ["adapters.safetensors", "adapters.npz"])
def test_mlx_scale_is_the_factor_whatever_the_rank(tmp_path, name):
    base, _ = model(tmp_path / "base", {f"{Q}.weight": (32, 24)}, LLAMA)
    own = mlx_factors(Q, 32, 24)
    found, pairs, _ = read(base, adapter(tmp_path / "a", own, mlx(rank=64), name))
    close(found, {f"{Q}.weight": 2.5 * (own[f"{Q}.lora_a"].double() @ own[f"{Q}.lora_b"].double()).T})
    assert pairs.info.scalings == pytest.approx((2.5,))
    assert pairs.info.base_named == "some/base"


def test_mlx_dora_has_one_magnitude_a_row_even_of_an_embedding(tmp_path):
    shapes = {"model.embed_tokens.weight": (40, 24), f"{Q}.weight": (32, 24)}
    base, weights = model(tmp_path / "base", shapes, LLAMA)
    own = {
        "model.embed_tokens.lora_a": draw(40, RANK),
        "model.embed_tokens.lora_b": draw(RANK, 24),
        "model.embed_tokens.m": draw(40).abs(),
        **mlx_factors(Q, 32, 24),
        f"{Q}.m": draw(32).abs(),
    }
    found, pairs, _ = read(base, adapter(tmp_path / "a", own, mlx(kind="dora"), "adapters.safetensors"))
    expected = {}
    for key, weight in weights.items():
        module = key.removesuffix(".weight")
        product = own[f"{module}.lora_a"].double() @ own[f"{module}.lora_b"].double()
        tuned = weight.double() + 2.5 * (product if "embed" in key else product.T)
        gain = own[f"{module}.m"].double() / tuned.norm(dim=1)
        expected[key] = gain[:, None] * tuned - weight.double()
    close(found, expected)
    assert pairs.info.method == "DoRA"


def test_mlx_dora_without_its_magnitude_is_refused(tmp_path):
    base, _ = model(tmp_path / "base", {f"{Q}.weight": (32, 24)}, LLAMA)
    refusal(
        base,
        adapter(tmp_path / "a", mlx_factors(Q, 32, 24), mlx(kind="dora"), "adapters.safetensors"),
        "lora_magnitude_vector",
        kind=MatchError,
    )


EXPERTS = "model.layers.0.mlp.switch_mlp.down_proj"


@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize(
    ("named", "config"),
    [
        ("model.layers.0.mlp.experts.{}.down_proj.weight", {"model_type": "qwen3_moe"}),
        ("model.layers.0.mlp.experts.{}.w2.weight", {"model_type": "mixtral"}),
        (EXPERTS + ".weight", {"model_type": "qwen3_moe", "num_experts": 4}),
    ],
)
def test_mlx_experts_are_found_one_by_one_and_in_stacks_in_both_layouts_of_the_factors(tmp_path, named, config, old):
    stacked = "{}" not in named
    shapes = {named: (4, 24, 16)} if stacked else {named.format(number): (24, 16) for number in range(4)}
    base, _ = model(tmp_path / "base", shapes, config)
    a, b = draw(4, RANK, 16), draw(4, 24, RANK, seed=1)
    own = {f"{EXPERTS}.lora_a": a.flatten(0, 1) if old else a, f"{EXPERTS}.lora_b": b}
    found, pairs, every = read(base, adapter(tmp_path / "a", own, mlx(), "adapters.safetensors"))
    keys = [(named, number) if stacked else named.format(number) for number in range(4)]
    close(found, {key: 2.5 * (b[number].double() @ a[number].double()) for number, key in enumerate(keys)})
    assert {pair.update.kind for pair in every} == {"low rank"}
    assert sum(pair.update_storage.parameters for pair in every) == pairs.info.parameters == a.numel() + b.numel()


def test_mlx_stack_of_another_kind_is_refused(tmp_path):
    base, _ = model(tmp_path / "base", {"model.layers.0.mlp.experts.0.down_proj.weight": (24, 16)}, LLAMA)
    own = {"model.layers.0.mlp.pile.lora_a": draw(4, RANK, 16), "model.layers.0.mlp.pile.lora_b": draw(4, 24, RANK)}
    refusal(base, adapter(tmp_path / "a", own, mlx(), "adapters.safetensors"), "mlp.pile", "stack of experts")


def test_mlx_without_a_scale_needs_an_alpha(tmp_path):
    base, _ = model(tmp_path / "base", {f"{Q}.weight": (32, 24)}, LLAMA)
    own = mlx_factors(Q, 32, 24)
    bare = adapter(tmp_path / "a", own, name="adapters.npz")
    refusal(base, bare, "'a'", "alpha")
    found, _, _ = read(base, bare, alpha=6.0)
    close(found, {f"{Q}.weight": 2.0 * (own[f"{Q}.lora_a"].double() @ own[f"{Q}.lora_b"].double()).T})


def test_a_configuration_of_mlx_that_may_be_of_either_age_is_refused_unless_told(tmp_path):
    """Until 2024 the factor was scale alpha / rank; the same configuration later means scale."""
    base, _ = model(tmp_path / "base", {f"{Q}.weight": (32, 24)}, LLAMA)
    own = mlx_factors(Q, 32, 24)
    product = (own[f"{Q}.lora_a"].double() @ own[f"{Q}.lora_b"].double()).T
    old = adapter(tmp_path / "old", own, mlx(kind=None, alpha=12.0), "adapters.safetensors")
    refusal(base, old, "scale alpha (30)", "scale rank (7.5)")
    for alpha, factor in ((30, 10.0), (7.5, 2.5)):
        close(read(base, old, alpha=alpha)[0], {f"{Q}.weight": factor * product})
    new = adapter(tmp_path / "new", own, mlx(alpha=12.0), "adapters.safetensors")
    close(read(base, new)[0], {f"{Q}.weight": 2.5 * product})
    same = adapter(tmp_path / "same", own, mlx(kind=None, alpha=RANK), "adapters.safetensors")
    close(read(base, same)[0], {f"{Q}.weight": 2.5 * product})


@pytest.mark.parametrize(
    ("config", "fragment", "kind"),
    [
        (mlx(kind="qat"), "'qat'", UnsupportedError),
        (mlx(scale="2"), "scale is '2'", FormatError),
        ({"fine_tune_type": "lora", "lora_parameters": [1]}, "lora_parameters is [1]", FormatError),
    ],
)
def test_impossible_configurations_of_mlx_name_the_field(tmp_path, config, fragment, kind):
    base, _ = model(tmp_path / "base", {f"{Q}.weight": (32, 24)}, LLAMA)
    own = adapter(tmp_path / "a", mlx_factors(Q, 32, 24), config, "adapters.safetensors")
    refusal(base, own, fragment, kind=kind)


def test_real_adapters_of_mlx_fit_a_base_of_their_shapes(tmp_path, real_data):
    names = {
        f"model.layers.{layer}.self_attn.{name}_proj.weight": (896 if name == "q" else 128, 896)
        for layer in range(20, 24)
        for name in "qv"
    }
    base, _ = model(tmp_path / "base", names, {"model_type": "qwen2"})
    file = real_data / "adapters" / "mlx" / "wyek1n_qwen05b" / "0000200_adapters.safetensors"
    found, pairs, _ = read(base, file)
    stored = load_file(file)
    for key, value in found.items():
        a, b = (stored[f"{key.removesuffix('.weight')}.lora_{side}"].double() for side in "ab")
        torch.testing.assert_close(value, 10.0 * (a @ b).T, rtol=1e-5, atol=1e-8)
    assert pairs.info.scalings == pytest.approx((10.0,))
    old = real_data / "adapters" / "mlx" / "hungphamdinh_1d4afc57f" / "adapters.npz"
    refusal(base, old, "alpha")


# NumPy archives


def npz(path, **arrays):
    numpy.savez(path, **arrays)
    return path


def test_arrays_of_every_kind_of_float_and_order_are_read_as_they_are(tmp_path):
    given = draw(6, 4)
    path = npz(
        tmp_path / "model.npz",
        big=given.numpy().astype(">f4"),
        fortran=numpy.asfortranarray(given.numpy()),
        half=given.half().numpy(),
        brain=given.bfloat16().view(torch.int16).numpy().view("V2"),
        double=given.double().numpy(),
    )
    base = npz(tmp_path / "base.npz", **dict.fromkeys(("big", "fortran", "half", "brain", "double"), given.numpy()))
    found, _, _ = read(base, path)
    assert not found["big"].any()
    assert not found["fortran"].any()
    assert torch.equal(found["half"].float(), given.half().float() - given)
    assert torch.equal(found["brain"].float(), given.bfloat16().float() - given)


def test_an_archive_that_unpacks_to_a_multiple_of_itself_is_not_opened(tmp_path):
    numpy.savez_compressed(tmp_path / "bomb.npz", zeros=numpy.zeros((5000, 5000), "f4"))
    refusal(tmp_path / "bomb.npz", tmp_path / "bomb.npz", "unpacks to over", kind=UnsafeFileError)


def test_an_archive_of_python_objects_is_not_opened(tmp_path):
    numpy.savez(tmp_path / "objects.npz", x=numpy.array([{}, {}]))
    refusal(tmp_path / "objects.npz", tmp_path / "objects.npz", "Python objects", kind=UnsafeFileError)


def test_an_array_cut_short_is_refused(tmp_path):
    whole = io.BytesIO()
    numpy.save(whole, draw(8, 8).numpy())
    with zipfile.ZipFile(tmp_path / "short.npz", "w") as archive:
        archive.writestr("x.npy", whole.getvalue()[:-8])
    refusal(tmp_path / "short.npz", tmp_path / "short.npz", "248 are there", kind=FormatError)


# torchtune

TUNE = {"q": "attn.q_proj", "k": "attn.k_proj", "v": "attn.v_proj", "o": "attn.output_proj"}
PEFT_CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "target_modules": ["q_proj"]}


def as_torchtune_has_it(rows, heads):
    """Reorder rows from the Hub's order to torchtune's, as its conversion of weights does."""
    return rows.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2)


def tune_factors(magnitude=False, reorder=True):
    """Factors in the Hub's order by module, and the same as torchtune writes them."""
    factors, stored = {}, {}
    for letter, name in TUNE.items():
        rows, heads = WIDTH if letter in "qo" else WIDTH // 2, {"q": HEADS, "k": KV}.get(letter)
        module = f"model.layers.0.self_attn.{letter}_proj"
        A, B, m = draw(RANK, WIDTH, seed=ord(letter)), draw(rows, RANK), draw(rows).abs()
        factors[module] = A, B, m
        turn = (lambda x, heads=heads: as_torchtune_has_it(x, heads)) if heads and reorder else (lambda x: x)
        stored[f"layers.0.{name}.lora_a.weight"] = A
        stored[f"layers.0.{name}.lora_b.weight"] = turn(B)
        if magnitude:
            stored[f"layers.0.{name}.magnitude"] = turn(m)
    return factors, stored


def tune_base(folder, config=LLAMA):
    shapes = {f"{module}.weight": (WIDTH if module in (Q, OUT) else WIDTH // 2, WIDTH) for module in (Q, K, V, OUT)}
    return model(folder, shapes, config)


def expected_of(factors, weights, *, magnitude):
    expected = {}
    for module, (A, B, m) in factors.items():
        W0, dW = weights[f"{module}.weight"].double(), 2.0 * B.double() @ A.double()
        gain = m.double() / (W0 + dW).norm(dim=1) if magnitude else torch.ones(len(W0)).double()
        expected[f"{module}.weight"] = gain[:, None] * (W0 + dW) - W0
    return expected


@pytest.mark.parametrize("magnitude", [False, True])
@pytest.mark.parametrize("name", ["adapter_model.pt", "adapter_0.pt"])
@pytest.mark.parametrize("kind", ["llama", "gemma2", "qwen2"])
def test_torchtune_s_own_file_is_put_in_the_order_of_the_hub(tmp_path, name, magnitude, kind):
    base, weights = tune_base(tmp_path / "base", LLAMA | {"model_type": kind})
    factors, stored = tune_factors(magnitude, reorder=kind != "qwen2")
    tuned = adapter(tmp_path / "a", stored, PEFT_CONFIG, name)
    found, pairs, _ = read(base, tuned)
    close(found, expected_of(factors, weights, magnitude=magnitude))
    assert pairs.info.method == ("DoRA" if magnitude else "LoRA")


def test_torchtune_without_its_configuration_needs_an_alpha(tmp_path):
    base, weights = tune_base(tmp_path / "base")
    factors, stored = tune_factors()
    tuned = adapter(tmp_path / "a", stored, None, "adapter_0.pt")
    refusal(base, tuned, "alpha")
    close(read(base, tuned, alpha=2.0 * RANK)[0], expected_of(factors, weights, magnitude=False))


@pytest.mark.parametrize("config", [None, LLAMA | {"model_type": "phi3"}, {"model_type": "llama"}])
def test_torchtune_is_refused_where_the_heads_or_the_architecture_are_not_known(tmp_path, config):
    base, _ = tune_base(tmp_path / "base", config)
    tuned = adapter(tmp_path / "a", tune_factors()[1], PEFT_CONFIG, "adapter_model.pt")
    refusal(base, tuned, "self_attn.q_proj", "config.json")


def test_heads_that_do_not_divide_the_rows_are_refused(tmp_path):
    base, _ = tune_base(tmp_path / "base", LLAMA | {"num_attention_heads": 5})
    refusal(
        base, adapter(tmp_path / "a", tune_factors()[1], PEFT_CONFIG, "adapter_model.pt"), "5 heads", kind=MatchError
    )


def exported(factors, *, magnitude_of=as_torchtune_has_it):
    """What torchtune exports for PEFT: everything in the Hub's order, save the magnitude."""
    stored = {}
    for module, (A, B, m) in factors.items():
        heads = {"q": HEADS, "k": KV}.get(module[-6])
        front = f"base_model.model.{module}"
        stored[f"{front}.lora_A.weight"], stored[f"{front}.lora_B.weight"] = A, B
        stored[f"{front}.lora_magnitude_vector"] = magnitude_of(m, heads) if heads else m
    return stored


def test_the_magnitude_in_torchtune_s_export_is_in_torchtune_s_order(tmp_path):
    base, weights = tune_base(tmp_path / "base")
    factors, _ = tune_factors(magnitude=True)
    tuned = adapter(tmp_path / "a", exported(factors), PEFT_CONFIG)
    close(read(base, tuned)[0], expected_of(factors, weights, magnitude=True))
    own = adapter(tmp_path / "b", exported(factors, magnitude_of=lambda m, heads: m), PEFT_CONFIG | {"use_dora": True})
    close(read(base, own)[0], expected_of(factors, weights, magnitude=True))


def test_torchtune_s_export_of_dora_for_qwen2_is_refused(tmp_path):
    base, _ = tune_base(tmp_path / "base", LLAMA | {"model_type": "qwen2"})
    tuned = adapter(tmp_path / "a", exported(tune_factors()[0]), PEFT_CONFIG)
    refusal(base, tuned, "adapter_model.pt")


def test_the_two_files_of_one_adapter_of_torchtune_say_the_same(oracle, require_right):
    case = oracle / "tt_lora"
    for tuned in (case / "adapter", case / "adapter" / "adapter_model.pt"):
        with open_pairs(case / "base", tuned) as pairs:
            require_right(case, pairs, "truth")


# loralib


def loralib(folder, tensors, settings=None):
    return adapter(folder, tensors, settings, "lora.pt", "train_args.json")


def test_loralib_holds_no_alpha(tmp_path):
    base, _ = model(tmp_path / "base", {"q.weight": (16, 24)})
    A, B = draw(4, 24), draw(16, 4)
    tuned = loralib(tmp_path / "a", {"q.lora_A": A, "q.lora_B": B})
    refusal(base, tuned, "loralib", "alpha")
    close(read(base, tuned, alpha=10)[0], {"q.weight": 2.5 * B.double() @ A.double()})
    told = loralib(tmp_path / "b", {"q.lora_A": A, "q.lora_B": B}, {"lora_alpha": {"q": 2}, "r": {"q": 4}})
    close(read(base, told)[0], {"q.weight": 0.5 * B.double() @ A.double()})
    refusal(base, told, "that of 'b' is 2", kind=UsageError, alpha=10)
    wrong = loralib(tmp_path / "c", {"q.lora_A": A, "q.lora_B": B}, {"lora_alpha": 2, "r": 8})
    refusal(base, wrong, "rank 4", "says 8", kind=MatchError)


def test_each_module_of_loralib_has_its_own_rank_and_alpha(tmp_path):
    """`q` is no pattern: `layer.q` has its own."""
    base, _ = model(tmp_path / "base", {"q.weight": (16, 24), "layer.q.weight": (16, 24), "layerXq.weight": (16, 24)})
    own, expected, alphas = {}, {}, {"q": 3, "layer.q": 5, "layerXq": 5}
    for rank, (module, alpha) in enumerate(alphas.items(), 2):
        A, B = draw(rank, 24), draw(16, rank)
        own |= {f"{module}.lora_A": A, f"{module}.lora_B": B}
        expected[f"{module}.weight"] = alpha / rank * B.double() @ A.double()
    found, pairs, _ = read(base, loralib(tmp_path / "a", own, {"lora_alpha": alphas}))
    close(found, expected)
    assert not any(note for pair in read(base, tmp_path / "a")[2] for note in pair.notes)
    assert pairs.info.ranks == (2, 3, 4)


def merged_truth(A, B, enabled, out):
    """loralib's own rule: a grouped convolution, its rows scattered to the enabled blocks."""
    product = torch.nn.functional.conv1d(A.double()[None], B.double()[..., None], groups=sum(enabled))[0]
    whole = torch.zeros(len(enabled), out // len(enabled), A.shape[1], dtype=torch.double)
    whole[torch.tensor(enabled)] = product.reshape(sum(enabled), -1, A.shape[1])
    return whole.flatten(0, 1)


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("enabled", [(True, False, True), (False, True, False), (True, True, True), (True, False)])
def test_merged_linear_adapts_the_enabled_blocks(tmp_path, enabled, turned):
    out, groups = 48, sum(enabled)
    base, _ = model(tmp_path / "base", {"qkv.weight": (24, out) if turned else (out, 24)})
    A, B = draw(2 * groups, 24), draw(out // len(enabled) * groups, 2)
    settings = {"lora_alpha": 6, "enable_lora": list(enabled)}
    tuned = loralib(tmp_path / "a", {"qkv.lora_A": A, "qkv.lora_B": B}, settings)
    found, _, (pair,) = read(base, tuned)
    expected = 3.0 * merged_truth(A, B, enabled, out)
    close(found, {"qkv.weight": expected.T if turned else expected})
    assert pair.update.kind == "stacked"
    assert pair.allotted == 2 * groups >= int(torch.linalg.matrix_rank(expected))
    factors = pair.update.factors
    assert factors is not None
    torch.testing.assert_close((factors[0] @ factors[1]).double(), expected, rtol=1e-5, atol=1e-5)
    bare = loralib(tmp_path / "b", {"qkv.lora_A": A, "qkv.lora_B": B})
    if all(enabled):
        close(read(base, bare, alpha=6)[0], found)
    else:
        refusal(base, bare, *(("enable_lora",) if groups > 1 else ()), kind=InputError, alpha=6)


@pytest.mark.parametrize("flags", [[], [1, 0], [False, False], "q"])
def test_flags_that_are_none_are_refused(tmp_path, flags):
    base, _ = model(tmp_path / "base", {"qkv.weight": (48, 24)})
    own = {"qkv.lora_A": draw(4, 24), "qkv.lora_B": draw(32, 2)}
    refusal(
        base, loralib(tmp_path / "a", own, {"lora_alpha": 6, "enable_lora": flags}), "enable_lora", kind=FormatError
    )


def test_square_weights_lie_as_the_settings_say(tmp_path):
    base, _ = model(tmp_path / "base", {"q.weight": (24, 24), "v.weight": (24, 24), "w.weight": (24, 16)})
    own = {f"{name}.lora_{side}": draw(4, 24) if side == "A" else draw(24, 4) for name in "qv" for side in "AB"}
    straight = own["q.lora_B"].double() @ own["q.lora_A"].double()
    plain = read(base, loralib(tmp_path / "a", own), alpha=4)[0]
    close(plain, {"q.weight": straight, "v.weight": straight})
    turned = read(base, loralib(tmp_path / "b", own, {"lora_alpha": 4, "fan_in_fan_out": True}))[0]
    close(turned, {"q.weight": straight.T, "v.weight": straight.T})
    mixed = loralib(tmp_path / "c", own, {"lora_alpha": 4, "fan_in_fan_out": {"q": True}})
    refusal(base, mixed, "fan_in_fan_out")


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("out", "channels", "kernel"), [(6, 4, 3), (40, 16, 3), (64, 8, 5), (12, 8, 1)])
def test_a_convolution_of_loralib_is_a_plain_view(tmp_path, out, channels, kernel, groups):
    base, weights = model(tmp_path / "base", {"conv.weight": (out, channels // groups, kernel, kernel)})
    A, B = draw(2 * kernel, channels * kernel), draw(out // groups * kernel, 2 * kernel)
    tuned = loralib(tmp_path / "a", {"conv.lora_A": A, "conv.lora_B": B})
    found, pairs, (pair,) = read(base, tuned, alpha=3)
    close(found, {"conv.weight": 1.5 * (B.double() @ A.double()).view(weights["conv.weight"].shape)})
    assert pairs.info.scalings == (1.5,)
    if pair.update.factors is not None:
        torch.testing.assert_close(pair.update.factors[0] @ pair.update.factors[1], pair.update.dense())


def test_a_wide_convolution_of_loralib_keeps_factors(tmp_path):
    base, _ = model(tmp_path / "base", {"conv.weight": (40, 16, 3, 3)})
    own = {"conv.lora_A": draw(3, 48), "conv.lora_B": draw(120, 3)}
    _, _, (pair,) = read(base, loralib(tmp_path / "a", own), alpha=3)
    assert pair.update.kind == "low rank"
    assert pair.allotted == 9


def test_a_convolution_whose_product_fits_no_kernel_is_refused(tmp_path):
    """As loralib's own Conv1d, whose factors are always made for two dimensions."""
    base, _ = model(tmp_path / "base", {"conv.weight": (6, 4, 3)})
    own = {"conv.lora_A": draw(6, 12), "conv.lora_B": draw(18, 6)}
    refusal(base, loralib(tmp_path / "a", own), "'conv'", "[18, 12]", kind=MatchError, alpha=3)


def test_an_embedding_of_loralib_stays_vocabulary_by_dimension(tmp_path):
    base, _ = model(tmp_path / "base", {"wte.weight": (40, 24)}, {"model_type": "gpt2"})
    A, B = draw(3, 40), draw(24, 3)
    found, _, (pair,) = read(base, loralib(tmp_path / "a", {"wte.lora_A": A, "wte.lora_B": B}), alpha=6)
    close(found, {"wte.weight": 2.0 * (B.double() @ A.double()).T})
    assert pair.shape == (40, 24)


def test_a_factor_of_loralib_that_is_missing_is_named(tmp_path):
    base, _ = model(tmp_path / "base", {"q.weight": (16, 24)})
    refusal(base, loralib(tmp_path / "a", {"q.lora_A": draw(4, 24)}), "'q'", kind=MatchError, alpha=3)


# AdapterHub


def hub(folder, tensors, **config):
    inner = {"architecture": "lora", "alpha": 6, "r": RANK, "composition_mode": "add", "use_dora": False,
             "use_gating": False, "attn_matrices": ["q", "v"], **config}  # fmt: skip
    own = {"config": inner, "model_class": "BertModel", "model_name": "some/base", "name": "task"}
    return adapter(folder, tensors, own, "pytorch_adapter.bin")


def hub_factors(module, rows, columns, rank=RANK):
    return {f"{module}.loras.task.lora_A": draw(rank, columns), f"{module}.loras.task.lora_B": draw(rows, rank)}


C_ATTN = "transformer.h.0.attn.c_attn"


@pytest.mark.parametrize("letters", ["q", "k", "v", "qv", "qkv", "vo"])
def test_the_fused_projection_of_gpt2_is_adapted_where_attn_matrices_say(tmp_path, letters):
    base, _ = model(tmp_path / "base", {f"{C_ATTN}.weight": (16, 48)}, {"model_type": "gpt2"})
    enabled = tuple(letter in letters for letter in "qkv")
    groups = sum(enabled)
    own = hub_factors(C_ATTN, 16 * groups, 16)
    own[f"{C_ATTN}.loras.task.lora_A"] = A = draw(RANK * groups, 16)
    B = own[f"{C_ATTN}.loras.task.lora_B"]
    found, _, _ = read(base, hub(tmp_path / "a", own, attn_matrices=list(letters)))
    close(found, {f"{C_ATTN}.weight": 2.0 * merged_truth(A, B, enabled, 48).T})


@pytest.mark.parametrize("alpha", [1, 2.5])
@pytest.mark.parametrize("letters", ["k", "kv", "qkv"])
def test_ia3_multiplies_every_block_of_a_fused_weight_by_alpha(tmp_path, letters, alpha):
    base, weights = model(tmp_path / "base", {f"{C_ATTN}.weight": (16, 48)}, {"model_type": "gpt2"})
    l = draw(16 * len(letters), 1)  # noqa: E741 - the paper's own letter
    options = {"composition_mode": "scale", "alpha": alpha, "r": 1, "attn_matrices": list(letters)}
    found, pairs, _ = read(base, hub(tmp_path / "a", {f"{C_ATTN}.loras.task.lora_B": l}, **options))
    gain = torch.ones(3, 16).double()
    gain[torch.tensor([letter in letters for letter in "qkv"])] = l.double().reshape(-1, 16)
    W0 = weights[f"{C_ATTN}.weight"].double()
    close(found, {f"{C_ATTN}.weight": W0 * alpha * gain.flatten() - W0})
    assert pairs.info.method == "(IA)3"
    assert pairs.info.ranks == ()


QUERY = "bert.encoder.layer.0.attention.self.query"


def through_the_library(x, W0, B, A, m, scaling):
    """AdapterHub's forward of DoRA: the output and the scaled update, over a norm without the scaling."""
    norm = (W0 + B @ A).norm(dim=1)
    return m / norm * (x @ W0.T + scaling * x @ A.T @ B.T)


@pytest.mark.parametrize("alpha", [RANK, 6])
def test_dora_of_adapterhub_is_what_its_forward_computes(tmp_path, alpha):
    base, weights = model(tmp_path / "base", {f"{QUERY}.weight": (24, 16)}, {"model_type": "bert"})
    own = hub_factors(QUERY, 24, 16) | {f"{QUERY}.loras.task.m.weight": draw(24, 1).abs()}
    found, _, (pair,) = read(base, hub(tmp_path / "a", own, use_dora=True, alpha=alpha))
    W0, (A, B, m) = weights[f"{QUERY}.weight"].double(), (tensor.double() for tensor in own.values())
    x = draw(7, 16).double()
    tuned = x @ (W0 + found[f"{QUERY}.weight"]).T
    torch.testing.assert_close(tuned, through_the_library(x, W0, B, A, m.flatten(), alpha / RANK), rtol=1e-4, atol=1e-4)
    assert bool(pair.notes) == (alpha != RANK)


@pytest.mark.parametrize("dora", [False, True])
def test_vera_of_adapterhub_has_whole_matrices_and_shared_factors(tmp_path, dora):
    base, weights = model(tmp_path / "base", {f"{QUERY}.weight": (24, 24)}, {"model_type": "bert"})
    left, middle, A, B = draw(24, 24), draw(RANK, RANK), draw(RANK, 24), draw(24, RANK)
    own = {f"{QUERY}.loras.task.vera_D": middle, f"{QUERY}.loras.task.vera_B": left}
    own |= {"bert.shared_parameters.task.lora_A": A, "bert.shared_parameters.task.lora_B": B}
    if dora:
        own[f"{QUERY}.loras.task.m.weight"] = draw(24, 1).abs()
    found, pairs, (pair,) = read(base, hub(tmp_path / "a", own, use_dora=dora, vera_d=0.1, vera_b=0.1, alpha=RANK))
    W0, inner = weights[f"{QUERY}.weight"].double(), (left @ B @ middle).double() @ A.double()
    gain = torch.ones(24).double()
    if dora:
        gain = own[f"{QUERY}.loras.task.m.weight"].double().flatten() / (W0 + inner).norm(dim=1)
    close(found, {f"{QUERY}.weight": gain[:, None] * (W0 + inner) - W0})
    assert pairs.info.method == ("DVoRA" if dora else "VeRA")
    assert pair.update.kind == ("rescaled" if dora else "low rank")


def test_vera_without_its_shared_factors_is_refused(tmp_path):
    base, _ = model(tmp_path / "base", {f"{QUERY}.weight": (24, 24)}, {"model_type": "bert"})
    own = {f"{QUERY}.loras.task.vera_D": draw(RANK, RANK), f"{QUERY}.loras.task.vera_B": draw(24, 24)}
    refusal(base, hub(tmp_path / "a", own), "lora_B", kind=MatchError)


@pytest.mark.parametrize(
    ("config", "fragment", "kind"),
    [
        ({"use_gating": True}, "gate", UnsupportedError),
        ({"architecture": "mtl_lora"}, "mtl_lora", UnsupportedError),
        ({"architecture": None}, "bottleneck", UnsupportedError),
        ({"composition_mode": "multiply"}, "composition_mode", FormatError),
        ({"composition_mode": "scale"}, "r = 1", UnsupportedError),
        ({"use_dora": True}, "its m is missing", MatchError),
        ({"alpha": "6"}, "alpha is '6'", FormatError),
    ],
)
def test_what_adapterhub_does_not_define_is_refused_by_name(tmp_path, config, fragment, kind):
    base, _ = model(tmp_path / "base", {f"{QUERY}.weight": (24, 16)}, {"model_type": "bert"})
    refusal(base, hub(tmp_path / "a", hub_factors(QUERY, 24, 16), **config), fragment, kind=kind)


def test_dora_of_adapterhub_on_a_transposed_weight_is_refused(tmp_path):
    base, _ = model(tmp_path / "base", {"transformer.h.0.mlp.c_fc.weight": (16, 64)}, {"model_type": "gpt2"})
    own = hub_factors("transformer.h.0.mlp.c_fc", 64, 16)
    own["transformer.h.0.mlp.c_fc.loras.task.m.weight"] = draw(64, 1)
    refusal(base, hub(tmp_path / "a", own, use_dora=True), "c_fc", "transposed")


def test_adapterhub_in_safetensors_and_its_head_are_seen(tmp_path):
    base, _ = model(tmp_path / "base", {f"{QUERY}.weight": (24, 16)}, {"model_type": "bert"})
    own = hub_factors(QUERY, 24, 16)
    folder = hub(tmp_path / "a", own)
    (folder / "pytorch_adapter.bin").unlink()
    save_file(own, folder / "adapter.safetensors")
    save_file({"classifier.weight": draw(3, 24)}, folder / "model_head.safetensors")
    found, pairs, _ = read(base, folder)
    A, B = own.values()
    close(found, {f"{QUERY}.weight": 2.0 * B.double() @ A.double()})
    assert any("model_head.safetensors" in note for note in pairs.notes)


# LoRMA


def lorma(folder, tensors, **settings):
    own = {"lorma_r": RANK, "lorma_alpha": 6, "lorma_mode": "pre", "rank_inflation": "rri", **settings}
    return adapter(folder, tensors, own, "lorma.safetensors", "lorma_args.json")


def shift(matrix):
    """Rotate row i by i to the right, entry by entry."""
    n = len(matrix)
    out = torch.empty_like(matrix)
    for i in range(n):
        for j in range(n):
            out[i, j] = matrix[i, (j - i) % n]
    return out


@pytest.mark.parametrize("inflation", ["rri", "shift", "none"])
@pytest.mark.parametrize("mode", ["pre", "post"])
def test_lorma_multiplies_from_either_side(tmp_path, mode, inflation):
    base, weights = model(tmp_path / "base", {f"{Q}.weight": (24, 16)}, LLAMA)
    size = 24 if mode == "pre" else 16
    A, B, W0 = draw(RANK, size), draw(size, RANK), weights[f"{Q}.weight"].double()
    product = B.double() @ A.double()
    turn = {"rri": torch.eye(size) + 2.0 * product, "shift": 2.0 * shift(product), "none": 2.0 * product}[inflation]
    own = {f"{Q}.lorma_A": A, f"{Q}.lorma_B": B}
    found, _, (pair,) = read(base, lorma(tmp_path / "a", own, lorma_mode=mode, rank_inflation=inflation))
    close(found, {f"{Q}.weight": (turn @ W0 if mode == "pre" else W0 @ turn) - W0})
    assert (pair.update.factors is not None) == (inflation == "rri")
    assert pair.allotted == (RANK if inflation == "rri" else None)
    x, y = draw(16, 2), draw(24, 2)
    torch.testing.assert_close(pair.update.matmul(x).double(), found[f"{Q}.weight"] @ x.double(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        pair.update.rmatmul(y).double(), found[f"{Q}.weight"].T @ y.double(), rtol=1e-4, atol=1e-4
    )


def test_the_whole_state_dict_of_lorma_is_read_with_what_was_trained_beside(tmp_path):
    shapes = {f"{Q}.weight": (24, 16), "classifier.weight": (3, 24), "model.norm.weight": (16,)}
    base, weights = model(tmp_path / "base", shapes, LLAMA)
    A, B, head = draw(RANK, 24), draw(24, RANK), draw(3, 24, seed=5)
    whole = {f"{Q}.original_layer.weight": weights[f"{Q}.weight"], f"{Q}.lora_A": A, f"{Q}.lora_B": B}
    whole |= {"classifier.weight": head, "model.norm.weight": weights["model.norm.weight"]}
    folder = adapter(tmp_path / "a", whole, None, "model.safetensors")
    settings = {"lorma_r": RANK, "lorma_alpha": 6, "lorma_mode": "pre", "do_rri": False}
    (folder / "lorma_args.json").write_text(json.dumps(settings))
    found, pairs, _ = read(base, folder)
    W0 = weights[f"{Q}.weight"].double()
    close(found, {f"{Q}.weight": 2.0 * B.double() @ A.double() @ W0 - W0,
                  "classifier.weight": head.double() - weights["classifier.weight"].double()})  # fmt: skip
    assert "frozen copy" in dict(pairs.skipped)[f"{Q}.original_layer.weight"]
    (folder / "lorma_args.json").write_text(json.dumps(settings | {"lorma_mode": "post"}))
    refusal(base, folder, "post")


@pytest.mark.parametrize(
    ("settings", "fragment", "kind"),
    [
        ({"rank_inflation": None}, "rank_inflation", UnsupportedError),
        ({"lorma_mode": "left"}, "lorma_mode is 'left'", FormatError),
        ({"lorma_r": 8}, "says 8", MatchError),
        ({"lorma_alpha": None}, "lorma_alpha", UnsupportedError),
    ],
)
def test_lorma_does_not_guess(tmp_path, settings, fragment, kind):
    base, _ = model(tmp_path / "base", {f"{Q}.weight": (24, 16)}, LLAMA)
    own = {f"{Q}.lorma_A": draw(RANK, 24), f"{Q}.lorma_B": draw(24, RANK)}
    refusal(base, lorma(tmp_path / "a", own, **settings), fragment, kind=kind)


def test_lorma_of_the_other_side_is_refused(tmp_path):
    base, _ = model(tmp_path / "base", {f"{Q}.weight": (24, 16)}, LLAMA)
    own = {f"{Q}.lorma_A": draw(RANK, 16), f"{Q}.lorma_B": draw(16, RANK)}
    refusal(base, lorma(tmp_path / "a", own), "[24, 16]", kind=MatchError)


def test_the_state_dict_of_a_case_of_lorma_says_the_same_as_its_factors(oracle, require_right):
    for name in ("lorma_plus_pre", "lorma_pi_pre", "lorma_none_pre"):
        case = oracle / name
        with open_pairs(case / "base", case / "adapter" / "model_with_lorma.safetensors") as pairs:
            require_right(case, pairs, "truth")


# LoRS


def test_lors_keeps_the_zeros_of_its_base(tmp_path):
    sparse = torch.where(draw(24, 16) > 0, draw(24, 16, seed=3), 0.0)
    base, _ = model(tmp_path / "base", {f"{Q}.weight": sparse}, LLAMA)
    A, B = draw(RANK, 16), draw(24, RANK)
    own = {f"base_model.model.{Q}.lora_A.weight": A, f"base_model.model.{Q}.lora_B.weight": B}
    tuned = adapter(tmp_path / "a", own, PEFT_CONFIG | {"peft_type": "LORS"})
    found, pairs, (pair,) = read(base, tuned)
    close(found, {f"{Q}.weight": (sparse != 0) * (2.0 * B.double() @ A.double())})
    assert torch.equal(pair.tuned() == 0, sparse == 0)
    assert pairs.info.method == "LoRS"
    assert pair.update.kind == "elementwise"


# Numbers without names


@pytest.mark.parametrize("turned", [False, True])
def test_numbered_factors_go_where_the_caller_says(tmp_path, turned):
    base, _ = model(tmp_path / "base", {"blocks.0.proj_q.weight": (24, 16), "blocks.0.proj_v.weight": (24, 24)})
    A, B, C, D = draw(4, 16), draw(24, 4), draw(4, 24), draw(24, 4, seed=9)
    own = {"w_a_000": A, "w_b_000": B, "w_a_001": C, "w_b_001": D}
    tuned = adapter(tmp_path / "a", {key: tensor.T if turned else tensor for key, tensor in own.items()})
    names = {"000": "blocks.0.proj_q", "001": "blocks.0.proj_v"}
    found, _, _ = read(base, tuned, names=names, alpha=8)
    expected = {"blocks.0.proj_q.weight": 2.0 * B.double() @ A.double()}
    close(found, expected | {"blocks.0.proj_v.weight": 2.0 * D.double() @ C.double()})
    refusal(base, tuned, "names=", alpha=8)
    refusal(base, tuned, "001", names={"000": "blocks.0.proj_q"}, alpha=8)
    refusal(base, tuned, "alpha", names=names)
    refusal(base, tuned, "proj_x", "proj_", names=names | {"001": "blocks.0.proj_x"}, alpha=8, kind=MatchError)
    refusal(base, tuned, "'002'", names=names | {"002": "blocks.0.proj_v"}, alpha=8, kind=UsageError)


def test_a_square_factor_may_lie_either_way(tmp_path):
    base, _ = model(tmp_path / "base", {"q.weight": (4, 4)})
    tuned = adapter(tmp_path / "a", {"w_a_0": draw(4, 4), "w_b_0": draw(4, 4)})
    refusal(base, tuned, "either way", names={"0": "q"}, alpha=8)


def test_a_real_file_of_lora_vit_without_its_other_half_is_refused(tmp_path, real_data):
    base, _ = model(tmp_path / "base", {f"b.{number}.weight": (768, 768) for number in range(24)})
    names = {f"{number:03}": f"b.{number}" for number in range(24)}
    file = real_data / "adapters" / "vision" / "lora_vit_feb27.safetensors"
    refusal(base, file, "missing", kind=MatchError, names=names, alpha=4)


def test_names_that_the_caller_gives_work_in_every_dialect(tmp_path):
    base, _ = model(tmp_path / "base", {f"{Q}.weight": (24, 16), f"{V}.weight": (24, 16)}, LLAMA)
    A, B = draw(RANK, 16), draw(24, RANK)
    own = {"base_model.model.odd.name.lora_A.weight": A, "base_model.model.odd.name.lora_B.weight": B}
    tuned = adapter(tmp_path / "a", own, PEFT_CONFIG)
    refusal(base, tuned, "odd.name", kind=MatchError)
    found, _, _ = read(base, tuned, names={"odd.name": V})
    close(found, {f"{V}.weight": 2.0 * B.double() @ A.double()})


# NeMo

MEGATRON = "decoder.layers.0.self_attention.linear_qkv"


@pytest.mark.parametrize(
    "front",
    [
        f"{MEGATRON}.adapter",
        "decoder.layers.0.self_attention.adapter_layer.lora_kqv_adapter",
    ],
)
def test_nemo_adapts_the_fused_weights_of_a_base_of_its_own(tmp_path, front):
    base, _ = model(tmp_path / "base", {f"{MEGATRON}.weight": (48, 16)})
    A, B = draw(RANK, 16), draw(48, RANK)
    tuned = adapter(tmp_path / "a", {f"{front}.linear_in.weight": A, f"{front}.linear_out.weight": B})
    close(read(base, tuned, alpha=6)[0], {f"{MEGATRON}.weight": 2.0 * B.double() @ A.double()})
    refusal(base, tuned, "NeMo", "alpha")
    hubs, _ = model(tmp_path / "hub", {f"{Q}.weight": (16, 16)}, LLAMA)
    refusal(hubs, tuned, "Megatron", alpha=6)


@pytest.mark.parametrize("more", ["adapter.weight_magnitude", "adapter.adapter_q.linear_in.weight"])
def test_what_nemo_writes_beyond_plain_lora_is_refused(tmp_path, more):
    base, _ = model(tmp_path / "base", {f"{MEGATRON}.weight": (48, 16)})
    own = {f"{MEGATRON}.adapter.linear_in.weight": draw(RANK, 16), f"{MEGATRON}.{more}": draw(RANK, 16)}
    refusal(base, adapter(tmp_path / "a", own), more, alpha=6)


# llama.cpp


@pytest.mark.parametrize("name", ["gguf_f32_lora", "gguf_f32_lora_embedding"])
def test_an_adapter_of_llama_cpp_is_read_against_the_hub_s_checkpoint_too(oracle, require_right, name):
    case = oracle / name
    with open_pairs(case / "base_hf", case / "adapter" / "adapter.gguf") as pairs:
        require_right(case, pairs, "truth_hf")


@pytest.mark.parametrize("name", ["gguf_f32_lora", "gguf_f32_lora_embedding"])
def test_an_adapter_of_peft_is_read_against_a_gguf_model_too(oracle, require_right, name):
    case = oracle / name
    with open_pairs(case / "base", case / "adapter_hf") as pairs:
        require_right(case, pairs, "truth")


def test_scalings_are_finite_and_said(oracle):
    case = oracle / "gguf_f32_lora"
    with open_pairs(case / "base", case / "adapter") as pairs:
        assert math.isclose(pairs.info.scalings[0], 2.0)


def gguf(path, tensors, **told):
    """Write a GGUF file, version 3: texts and numbers of the metadata, tensors in float32."""

    def text(word):
        raw = word.encode()
        return struct.pack("<Q", len(raw)) + raw

    def value(one):
        if isinstance(one, str):
            return struct.pack("<I", 8) + text(one)
        return struct.pack("<If", 6, one) if isinstance(one, float) else struct.pack("<II", 4, one)

    pairs = b"".join(text(key) + value(one) for key, one in told.items())
    infos, data = b"", b""
    for name, tensor in tensors.items():
        shape = tensor.shape[::-1]  # innermost first
        infos += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, 0, len(data))
        data += tensor.contiguous().numpy().astype("<f4").tobytes()
        data += b"\0" * (-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(told)) + pairs + infos
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)
    return path


LORA_GGUF = {"general.type": "adapter", "general.architecture": "llama", "adapter.type": "lora"}
STACK = "blk.0.ffn_down_exps.weight"
HUB_STACK = "model.layers.0.block_sparse_moe.experts.{}.w2.weight"


@pytest.mark.parametrize("alpha", [6.0, 0.0])
@pytest.mark.parametrize("stacked", [False, True])
def test_experts_of_llama_cpp_are_found_in_stacks_and_one_by_one(tmp_path, stacked, alpha):
    weights = draw(4, 24, 16)
    if stacked:
        named = {"general.architecture": "llama", "llama.expert_count": 4}
        base = gguf(tmp_path / "base.gguf", {STACK: weights}, **named)
    else:
        base, _ = model(tmp_path / "base", {HUB_STACK.format(number): weights[number] for number in range(4)}, LLAMA)
    a, b = draw(4, RANK, 16), draw(4, 24, RANK, seed=1)
    tensors = {f"{STACK}.lora_a": a, f"{STACK}.lora_b": b}
    found, _, _ = read(base, gguf(tmp_path / "a.gguf", tensors, **LORA_GGUF, **{"adapter.lora.alpha": alpha}))
    scaling = alpha / RANK or 1.0  # llama.cpp takes no alpha for no scaling
    keys = [(STACK, number) if stacked else HUB_STACK.format(number) for number in range(4)]
    close(found, {key: scaling * (b[number].double() @ a[number].double()) for number, key in enumerate(keys)})


@pytest.mark.parametrize(
    ("told", "name", "fragment"),
    [
        ({"adapter.type": "control_vector"}, "blk.0.attn_v", "control_vector"),
        ({"general.architecture": "gpt2"}, "blk.0.attn_output", "GPT-2"),
        ({}, "blk.0.attn_v", "alpha"),
    ],
)
def test_what_llama_cpp_does_not_say_is_refused(tmp_path, told, name, fragment):
    base, _ = model(tmp_path / "base", {f"{V}.weight": (16, 16)}, LLAMA)
    tensors = {f"{name}.weight.lora_a": draw(RANK, 16), f"{name}.weight.lora_b": draw(16, RANK)}
    refusal(base, gguf(tmp_path / "a.gguf", tensors, **LORA_GGUF | told), fragment)


def test_a_norm_in_an_adapter_of_llama_cpp_is_skipped_and_a_condition_said(tmp_path):
    base, _ = model(tmp_path / "base", {f"{V}.weight": (16, 16), "model.norm.weight": (16,)}, LLAMA)
    A, B = draw(RANK, 16), draw(16, RANK)
    tensors = {"blk.0.attn_v.weight.lora_a": A, "blk.0.attn_v.weight.lora_b": B, "output_norm.weight": draw(16)}
    told = LORA_GGUF | {"adapter.lora.alpha": 6.0, "adapter.alora.invocation_tokens": 7}
    found, pairs, _ = read(base, gguf(tmp_path / "a.gguf", tensors, **told))
    close(found, {f"{V}.weight": 2.0 * B.double() @ A.double()})
    assert "vector" in dict(pairs.skipped)["output_norm.weight"]
    assert any("invocation" in note for note in pairs.notes)
