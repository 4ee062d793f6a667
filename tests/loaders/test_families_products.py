"""Adapters whose dW is a product of their own kind, made with PEFT itself: dW is what PEFT's merge adds, in float64."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from spectra import open_pairs
from spectra.errors import FormatError, InputError, MatchError

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{text}")
    for text in (
        "fan_in_fan_out is set to",  # PEFT says that it corrects the flag: the point of those cases
        "Setting `save_embedding_layers`",  # PEFT saves the frozen embedding too: must be skipped
        "Could not find a config file",
        "Invalid `",  # PEFT says that it takes the nearest block size that divides
        "Failed to load the CUDA extension",
        "Setting boft_n_butterfly_factor",
        "The symmetric initialization can NOT",
        "Specified to not",
        "Adapter .* LoRA tensor",  # PEFT takes a module of which nothing is left for a broken one
        "`is_gradient_checkpointing` is deprecated",  # transformers, of itself
    )
]

HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Net(nn.Module):
    """Layers of every kind, of sizes that tell their axes apart, and one that is square."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(30, 16)
        self.wide = nn.Linear(24, 16)
        self.tall = nn.Linear(16, 40)
        self.square = nn.Linear(24, 24)
        self.image = nn.Conv2d(8, 12, 3)
        self.same = nn.Conv2d(12, 12, 3)
        self.point = nn.Conv2d(12, 8, 1)
        self.groups = nn.Conv2d(12, 24, 3, groups=3)
        self.depth = nn.Conv2d(12, 12, 3, groups=12)
        self.sound = nn.Conv1d(8, 12, 5)
        self.volume = nn.Conv3d(4, 6, 2)


def gpt2():
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=40, n_positions=16, n_embd=16, n_layer=1, n_head=2)
    )


def trained(model, config):
    """Wrap a model as PEFT does and give every trained parameter a value of its own."""
    wrapped = peft.get_peft_model(model, config)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype) / 3)
    return wrapped


def saved(folder, wrapped, base):
    """Save what a trained wrapper adds to a base; return both folders and the true dW by the base's names on disk."""
    wrapped.save_pretrained(folder / "adapter")
    after = wrapped.double().merge_and_unload().state_dict()
    truth = {key: after[key].double() - value.double() for key, value in base.items() if value.ndim > 1}
    return folder / "base", folder / "adapter", truth


def made(folder, model, config, *, before_saving=lambda wrapped: None):
    torch.manual_seed(3)
    base = stored_base(folder, model)
    wrapped = trained(model, config)
    before_saving(wrapped)
    return saved(folder, wrapped, base)


def stored_base(folder, model):
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder / "base")
    else:
        (folder / "base").mkdir(parents=True)
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / "base" / "model.safetensors")
    return load_file(folder / "base" / "model.safetensors")


def require_right(base, adapter, truth, exactness=1e-6):
    """Assert that every changed matrix is a pair with the true dW as stored, that no other changed, and the laws."""
    with open_pairs(base, adapter) as pairs:
        found = {pair.key: pair for pair in pairs}
        tensors, left = pairs.tuned_header.tensors, {key for key, _ in pairs.skipped}
    assert {key for key, value in truth.items() if value.any()} <= found.keys() <= truth.keys()
    for key, pair in found.items():
        dense, scale = pair.update.dense().double(), max(float(truth[key].abs().max()), 1e-12)
        worst = float((pair.to_stored(dense) - truth[key]).abs().max()) / scale
        assert worst < exactness, f"{key}: off by {worst:.1e} of the largest entry"
        obey_the_laws(pair, dense, scale)
    used = sum(pair.update_storage.parameters for pair in found.values())
    shared = [key for key in tensors if key.rpartition(".")[2] in ("vera_A", "vera_B", "pvera_A", "pvera_B")]
    assert used + sum(tensors[key].parameters for key in (*left & tensors.keys(), *shared)) == sum(
        info.parameters for info in tensors.values()
    )
    return found


def obey_the_laws(pair, dense, scale):
    m, n = pair.shape
    x, y = (torch.randn(size, 2, generator=torch.Generator().manual_seed(size)) for size in (n, m))
    tolerance = {"rtol": 1e-3, "atol": 1e-4 * scale * max(m, n)}
    torch.testing.assert_close(pair.update.matmul(x).double(), dense @ x.double(), **tolerance)
    torch.testing.assert_close(pair.update.rmatmul(y).double(), dense.T @ y.double(), **tolerance)
    values = torch.linalg.svdvals(dense)
    known = pair.update.values()
    if known is not None:
        torch.testing.assert_close(known, values, rtol=1e-4, atol=1e-5 * float(values[0]))
    if pair.update.factors is not None:
        B, A = pair.update.factors
        torch.testing.assert_close((B @ A).double(), dense, rtol=1e-4, atol=1e-5 * scale)
    if pair.allotted is not None and pair.allotted < len(values):
        assert float(values[pair.allotted]) <= 1e-5 * float(values[0]), "a rank above the one allotted"


LINEAR, CONV2D = ["wide", "tall", "square"], ["image", "same", "point"]
CONV = [*CONV2D, "sound"]
# name: (configuration, targets, options, the kind of structure that every update must keep)
CASES = {
    "AdaLoRA": (peft.AdaLoraConfig, [*LINEAR, "image", "point"], {"init_r": 5, "lora_alpha": 7}, "low rank"),
    "AdaLoRA, alpha 0": (peft.AdaLoraConfig, LINEAR, {"init_r": 5, "lora_alpha": 0}, "low rank"),
    "AdaLoRA, alpha below 0": (peft.AdaLoraConfig, LINEAR, {"init_r": 3, "lora_alpha": -4}, "low rank"),
    "LoHa": (peft.LoHaConfig, [*LINEAR, *CONV, "groups"], {"r": 3, "alpha": 5}, "elementwise"),
    "LoHa, a core": (
        peft.LoHaConfig, [*LINEAR, *CONV, "groups"], {"r": 3, "alpha": 5, "use_effective_conv2d": True}, "elementwise",
    ),
    "LoHa, patterns": (
        peft.LoHaConfig, LINEAR,
        {"r": 3, "alpha": 5, "rank_pattern": {"tall": 2}, "alpha_pattern": {"wide": 9}}, "elementwise",
    ),
    "LoKr": (peft.LoKrConfig, [*LINEAR, *CONV2D, "groups"], {"r": 2, "alpha": 6}, "Kronecker"),
    "LoKr, both": (
        peft.LoKrConfig, [*LINEAR, *CONV2D], {"r": 1, "alpha": 6, "decompose_both": True, "decompose_factor": 4},
        "Kronecker",
    ),
    "LoKr, in full": (peft.LoKrConfig, [*LINEAR, *CONV2D, "groups"], {"r": 40, "alpha": 16}, "Kronecker"),
    "LoKr, a core": (
        peft.LoKrConfig, [*CONV2D, "groups"], {"r": 1, "alpha": 2, "use_effective_conv2d": True, "decompose_factor": 2},
        "Kronecker",
    ),
    "LoKr, sound flat": (peft.LoKrConfig, ["sound"], {"r": 1, "alpha": 2, "decompose_factor": 2}, "Kronecker"),
    "LoKr, sound in full": (peft.LoKrConfig, ["sound"], {"r": 40, "alpha": 16}, "formed"),
    "LoKr, patterns": (
        peft.LoKrConfig, LINEAR,
        {"r": 1, "alpha": 5, "rank_pattern": {"tall": 2}, "alpha_pattern": {"wide": 9}}, "Kronecker",
    ),
    **{
        f"OFT, {terms} terms": (
            peft.OFTConfig, [*LINEAR, "embed", *CONV2D],
            {"oft_block_size": 4, "use_cayley_neumann": True, "num_cayley_neumann_terms": terms}, "multiplied",
        )
        for terms in range(1, 8)
    },
    "OFT, exact": (
        peft.OFTConfig, [*LINEAR, "embed", *CONV2D], {"oft_block_size": 8, "use_cayley_neumann": False}, "multiplied",
    ),
    "OFT, a number of blocks": (
        peft.OFTConfig, LINEAR, {"r": 2, "oft_block_size": 0, "use_cayley_neumann": False}, "multiplied",
    ),
    "OFT, shared": (
        peft.OFTConfig, [*LINEAR, "embed", *CONV2D],
        {"oft_block_size": 4, "use_cayley_neumann": True, "block_share": True}, "multiplied",
    ),
    "OFT, one block shared": (
        peft.OFTConfig, LINEAR, {"r": 1, "oft_block_size": 0, "use_cayley_neumann": True, "block_share": True},
        "multiplied",
    ),
    "OFT, constrained": (
        peft.OFTConfig, [*LINEAR, "embed"],
        {"oft_block_size": 4, "use_cayley_neumann": False, "coft": True, "eps": 0.9}, "multiplied",
    ),
    "OFT, constrained to nearly nothing": (
        peft.OFTConfig, LINEAR, {"oft_block_size": 4, "use_cayley_neumann": True, "coft": True}, "multiplied",
    ),
    "OFT, constrained and shared": (
        peft.OFTConfig, LINEAR,
        {"oft_block_size": 4, "use_cayley_neumann": True, "coft": True, "eps": 0.9, "block_share": True}, "multiplied",
    ),
    "BOFT": (peft.BOFTConfig, [*LINEAR, "image", "point"], {"boft_block_size": 4}, "rescaled"),
    "BOFT, a number of blocks": (peft.BOFTConfig, LINEAR, {"boft_block_size": 0, "boft_block_num": 2}, "rescaled"),
    "IA3": (
        peft.IA3Config, [*LINEAR, *CONV2D, "groups", "depth", "volume"], {"feedforward_modules": []}, "rescaled",
    ),
    "IA3, feed-forward": (
        peft.IA3Config, [*LINEAR, *CONV2D, "volume"],
        {"feedforward_modules": [*LINEAR, *CONV2D, "volume"]}, "rescaled",
    ),
    "IA3, feed-forward groups": (
        peft.IA3Config, ["groups", "depth"], {"feedforward_modules": ["groups", "depth"]}, "elementwise",
    ),
    "IA3, feed-forward by an expression": (
        peft.IA3Config, [*LINEAR, "same"], {"feedforward_modules": "s.*|wid"}, "rescaled",
    ),
    "HRA": (peft.HRAConfig, [*LINEAR, "image", "point"], {"r": 4}, "low rank"),
    "HRA, odd": (peft.HRAConfig, LINEAR, {"r": 3}, "low rank"),
    "HRA, more reflections than inputs": (peft.HRAConfig, ["tall"], {"r": 18}, "low rank"),
    "HRA, Gram-Schmidt": (peft.HRAConfig, [*LINEAR, "image"], {"r": 5, "apply_GS": True}, "low rank"),
    **{
        f"RoAd, {variant}": (peft.RoadConfig, LINEAR, {"variant": f"road_{variant}", "group_size": 8}, "multiplied")
        for variant in (1, 2, 4)
    },
    "VeRA": (peft.VeraConfig, LINEAR, {"r": 5, "projection_prng_key": 11}, "low rank"),
    "VeRA, not saved": (
        peft.VeraConfig, LINEAR, {"r": 5, "projection_prng_key": 11, "save_projection": False}, "low rank",
    ),
    "PVeRA": (peft.PveraConfig, LINEAR, {"r": 5, "projection_prng_key": 11}, "low rank"),
    "PVeRA, not saved": (
        peft.PveraConfig, LINEAR, {"r": 5, "projection_prng_key": 11, "save_projection": False}, "low rank",
    ),
    "MiSS": (peft.MissConfig, LINEAR, {"r": 4}, "low rank"),
    "MiSS, a rank that does not divide": (peft.MissConfig, LINEAR, {"r": 5}, "low rank"),
    "MiSS, at random": (peft.MissConfig, LINEAR, {"r": 7, "init_weights": False}, "low rank"),
    "MiSS, mini": (peft.MissConfig, LINEAR, {"r": 6, "mini_r": 2, "init_weights": "mini"}, "low rank"),
    "MiSS, mini above r": (peft.MissConfig, LINEAR, {"r": 3, "mini_r": 8, "init_weights": "mini"}, "low rank"),
    "MiSS, bat": (peft.MissConfig, LINEAR, {"r": 4, "init_weights": "bat"}, "formed"),
}  # fmt: skip


def configured(config, targets, options):
    extra = {"total_step": 10} if config is peft.AdaLoraConfig else {}
    return config(target_modules=targets, **extra, **options)


@pytest.mark.parametrize("name", CASES)
def test_dw_is_what_peft_s_own_merge_adds(tmp_path, name):
    config, targets, options, kind = CASES[name]
    base, adapter, truth = made(tmp_path, Net(), configured(config, targets, options))
    # PEFT 0.21 makes its exact rotations in float64 from float32 identities, and caps norms in the stored precision.
    found = require_right(base, adapter, truth)
    assert {pair.update.kind.removesuffix(" columns") for pair in found.values()} == {kind}
    assert set(found) == {f"{target}.weight" for target in targets}


@pytest.mark.parametrize("method", ["AdaLoRA", "IA3", "VeRA", "PVeRA", "VeRA, not saved", "PVeRA, not saved"])
def test_a_transposed_weight_is_turned(tmp_path, method):
    """The Conv1D of GPT-2: square, wide and fused. Where the architecture is known, and where the flag alone tells."""
    config, _, options, _ = CASES[method]
    targets = ["c_attn", "c_proj", "c_fc"]
    if method == "IA3":
        options = {"feedforward_modules": ["c_proj"]}
    base, adapter, truth = made(tmp_path, gpt2(), configured(config, targets, {**options, "fan_in_fan_out": True}))
    require_right(base, adapter, truth)
    (base / "config.json").unlink()
    require_right(base, adapter, truth)


@pytest.mark.parametrize("alpha", [6, 0])
def test_an_adalora_that_was_pruned_keeps_the_divisor_of_its_start(tmp_path, alpha):
    """PEFT saves a pattern of what is kept of each module, here something, everything and nothing."""
    kept = {
        "wide": [True, False, True, True, False],
        "tall": [True] * 5,
        "square": [False] * 5,
        "image": [False, True, False, True, False],
    }

    def prune(wrapped):
        pattern = {f"{name}.lora_E": keep for name, keep in kept.items()}
        wrapped.base_model.resize_modules_by_rank_pattern(pattern, "default")
        wrapped.peft_config["default"].rank_pattern = pattern

    config = configured(peft.AdaLoraConfig, list(kept), {"init_r": 5, "lora_alpha": alpha})
    base, adapter, truth = made(tmp_path, Net(), config, before_saving=prune)
    assert json.loads((adapter / "adapter_config.json").read_text())["rank_pattern"]["wide.lora_E"] == kept["wide"]
    found = require_right(base, adapter, truth)
    assert {key: pair.allotted for key, pair in found.items()} == {
        "wide.weight": 3, "tall.weight": 5, "square.weight": 0, "image.weight": 2,
    }  # fmt: skip


class Butterfly:
    """What the CUDA extension of BOFT does, on the CPU: without it PEFT makes one stage only."""

    def forward(self, blocks):
        return [torch.stack([torch.block_diag(*stage) for stage in blocks])]


@pytest.mark.parametrize("targets", [["tall", "wide"], ["image"]], ids=["linear", "convolution"])
@pytest.mark.parametrize("stages", [2, 3])
def test_the_stages_of_boft_are_multiplied_in_their_order(tmp_path, monkeypatch, targets, stages):
    from peft.tuners.boft import layer

    monkeypatch.setattr(layer, "get_fbd_cuda", Butterfly)
    size = 18 if targets == ["image"] and stages == 3 else 2
    config = peft.BOFTConfig(target_modules=targets, boft_block_size=size, boft_n_butterfly_factor=stages)
    base, adapter, truth = made(tmp_path, Net(), config)
    assert load_file(adapter / "adapter_model.safetensors")[f"base_model.model.{targets[0]}.boft_R"].shape[0] == stages
    require_right(base, adapter, truth)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("method", ["VeRA, not saved", "PVeRA, not saved"])
def test_projections_drawn_again_are_rounded_as_peft_rounds_them(tmp_path, method, dtype):
    config, targets, options, _ = CASES[method]
    model = Net().to(HALVES[dtype])
    base, adapter, truth = made(tmp_path, model, configured(config, targets, options))
    require_right(base, adapter, truth)
    with open_pairs(base, adapter) as pairs:
        assert any("drawn again from its seed" in note for note in pairs.notes)


@pytest.mark.parametrize("dtype", HALVES)
def test_what_is_stored_in_half_precision_is_computed_from_the_stored_values(tmp_path, dtype):
    for name in ("LoHa", "OFT, exact", "HRA", "MiSS, bat", "RoAd, 4"):
        config, targets, options, _ = CASES[name]
        folder = tmp_path / name.replace(" ", "_")
        base, adapter, _ = made(folder, Net(), configured(config, targets, options))
        tensors = load_file(adapter / "adapter_model.safetensors")
        halves = {key: value.to(HALVES[dtype]) for key, value in tensors.items()}
        results = []
        for stored in (halves, {key: value.float() for key, value in halves.items()}):
            save_file(stored, adapter / "adapter_model.safetensors")
            with open_pairs(base, adapter) as pairs:
                results.append({pair.key: pair.update.dense() for pair in pairs})
        assert results[0].keys() == results[1].keys()
        assert all(torch.equal(results[0][key], results[1][key]) for key in results[0]), name


@pytest.mark.parametrize("name", ["MiSS", "MiSS, bat", "MiSS, a rank that does not divide"])
def test_bone_is_the_same_under_its_own_name(tmp_path, name):
    config, targets, options, _ = CASES[name]
    base, adapter, truth = made(tmp_path, Net(), configured(config, targets, options))
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({k.replace("miss_", "bone_"): v for k, v in tensors.items()}, adapter / "adapter_model.safetensors")
    reconfigure(adapter, peft_type="BONE")
    require_right(base, adapter, truth)


def reconfigure(adapter, *, drop=(), **values):
    path = adapter / "adapter_config.json"
    config = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in drop}))


# --- the formats of OFT that PEFT no longer reads, by their formulas (compared once with PEFT 0.7 to 0.17 themselves)


def cayley(M):
    S, eye = (M - M.mT) / 2, torch.eye(M.shape[-1], dtype=torch.float64)
    return (eye - S) @ torch.linalg.inv(eye + S)


def bare(folder, tensors, **config):
    """Save a base of one linear layer and one convolution, and an adapter of them."""
    torch.manual_seed(5)
    base = {"fc.weight": torch.randn(18, 24), "conv.weight": torch.randn(10, 4, 3, 3)}
    for name in ("base", "adapter"):
        (folder / name).mkdir(parents=True)
    save_file(base, folder / "base" / "model.safetensors")
    prefixed = {f"base_model.model.{key}": value.contiguous() for key, value in tensors.items()}
    save_file(prefixed, folder / "adapter" / "adapter_model.safetensors")
    (folder / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    return folder / "base", folder / "adapter", {key: value.double() for key, value in base.items()}


def shortened(M, limit):
    norm = torch.linalg.matrix_norm(M, keepdim=True)
    return M * torch.clamp(limit / norm, max=1)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("coft", [False, True])
@pytest.mark.parametrize("r", [1, 3, 4])
def test_oft_of_peft_0_13_turns_the_outputs_and_cuts_the_last_block(tmp_path, r, coft, share):
    generator = torch.Generator().manual_seed(r)
    sizes = {"fc": -(-18 // r), "conv": -(-10 // r)}
    tensors = {
        f"{name}.oft_r": torch.randn(1 if share else r, b, b, generator=generator) / 3 for name, b in sizes.items()
    }
    config = {"peft_type": "OFT", "r": r, "coft": coft, "eps": 1e-3, "block_share": share, "rank_pattern": {}}
    base, adapter, weights = bare(tmp_path, tensors, **config)
    truth = {}
    for name, b in sizes.items():
        M, W = tensors[f"{name}.oft_r"].double(), weights[f"{name}.weight"]
        if coft:
            M = shortened(M, 1e-3 * b * b / len(M) ** 0.5)
        R = cayley(M)
        D = torch.block_diag(*(R[0 if share else i] for i in range(r)))[: len(W), : len(W)]
        truth[f"{name}.weight"] = (D.T @ W.flatten(1)).reshape(W.shape) - W
    require_right(base, adapter, truth)


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("coft", [False, True])
def test_oft_of_peft_0_14_turns_the_inputs_and_scales_the_outputs(tmp_path, coft, share):
    generator, b = torch.Generator().manual_seed(1), 6
    tensors, truth = {}, {}
    for name, (m, n) in {"fc": (18, 24), "conv": (10, 36)}.items():
        tensors[f"{name}.oft_r"] = torch.randn(1 if share else n // b, b, b, generator=generator) / 3
        tensors[f"{name}.oft_s"] = 1 + torch.randn(m, 1, generator=generator) / 3
    config = {"peft_type": "OFT", "r": 0, "oft_block_size": b, "coft": coft, "eps": 1e-2, "block_share": share}
    base, adapter, weights = bare(tmp_path, tensors, **config)
    for name, (m, n) in {"fc": (18, 24), "conv": (10, 36)}.items():
        M, W = tensors[f"{name}.oft_r"].double(), weights[f"{name}.weight"]
        if coft:
            M = shortened(M, 1e-2 * (-(-m // (n // b))) ** 2 / len(M) ** 0.5)
        R = cayley(M)
        D = torch.block_diag(*(R[0 if share else i] for i in range(n // b)))
        truth[f"{name}.weight"] = (tensors[f"{name}.oft_s"] * (W.flatten(1) @ D.T)).reshape(W.shape) - W
    require_right(base, adapter, truth)


@pytest.mark.parametrize("terms", range(1, 7))
@pytest.mark.parametrize("version", [None, "0.17.1", "0.18.0", "0.21.2"])
def test_the_series_of_oft_is_that_of_the_peft_that_wrote_it(tmp_path, version, terms):
    Q = torch.zeros(4, 6, 6, dtype=torch.float64)
    entries = torch.randn(4, 15, generator=torch.Generator().manual_seed(2)) / 3
    rows, columns = torch.triu_indices(6, 6, 1)
    Q[:, rows, columns] = entries.double()
    Q = Q - Q.mT
    old = version in (None, "0.17.1")
    R, power = torch.eye(6, dtype=torch.float64).expand(4, 6, 6).clone(), Q
    highest = terms - 1 if old or terms < 3 else max(3, terms - 1)
    for k in range(1, highest + 1):
        R += (1 if k == highest and not old and terms > 2 else 2) * power
        power = power @ Q
    config = {"peft_type": "OFT", "oft_block_size": 6, "use_cayley_neumann": True, "num_cayley_neumann_terms": terms}
    versioned = {"peft_version": version} if version else {}
    base, adapter, weights = bare(tmp_path, {"fc.oft_R.weight": entries}, **config, **versioned)
    W = weights["fc.weight"]
    truth = {"fc.weight": W @ torch.block_diag(*R).T - W, "conv.weight": torch.zeros(10, 4, 3, 3)}
    (pair,) = require_right(base, adapter, truth).values()
    assert any("before 0.18" in note for note in pair.notes) == (old and terms > 2)


def test_a_rotation_close_to_none_is_as_exact_as_a_large_one(tmp_path):
    """`R W0 - W0` would lose all but the first digits of it."""
    entries = torch.randn(4, 15, generator=torch.Generator().manual_seed(2)) * 1e-6
    config = {"peft_type": "OFT", "oft_block_size": 6, "use_cayley_neumann": False, "peft_version": "0.21.2"}
    base, adapter, weights = bare(tmp_path, {"fc.oft_R.weight": entries}, **config)
    Q = torch.zeros(4, 6, 6, dtype=torch.float64)
    rows, columns = torch.triu_indices(6, 6, 1)
    Q[:, rows, columns] = entries.double()
    W = weights["fc.weight"]
    truth = {"fc.weight": W @ torch.block_diag(*cayley(Q - Q.mT)).T - W, "conv.weight": torch.zeros(10, 4, 3, 3)}
    require_right(base, adapter, truth)


def test_reflections_that_cancel_leave_exactly_nothing(tmp_path):
    """HRA starts with every vector twice: an adapter that was hardly trained is a small difference of large parts."""
    u = torch.randn(24, 2, generator=torch.Generator().manual_seed(2)).repeat_interleave(2, 1)
    base, adapter, weights = bare(tmp_path, {"fc.hra_u": u}, peft_type="HRA", r=4, apply_GS=False)
    with open_pairs(base, adapter) as pairs:
        assert float(next(iter(pairs)).update.dense().abs().max()) < 1e-14
    W, v = weights["fc.weight"], u.double()
    v[:, 0] += 1e-5 * torch.randn(24, generator=torch.Generator().manual_seed(3)).double()
    v = v.float().double()
    save_file({"base_model.model.fc.hra_u": v.float()}, adapter / "adapter_model.safetensors")
    H = torch.eye(24, dtype=torch.float64)
    for i in range(4):
        H -= 2 * H @ torch.outer(v[:, i], v[:, i]) / (v[:, i] @ v[:, i])
    require_right(base, adapter, {"fc.weight": W @ H - W, "conv.weight": torch.zeros(10, 4, 3, 3)})


# --- LoRA-XS, whose authors patch PEFT's LoRA


LATENT_KEYS = {"glued": "fc_lora_latent_mapping.weight", "apart": "fc.default_lora_latent_mapping.weight"}


@pytest.mark.parametrize("key", LATENT_KEYS.values(), ids=LATENT_KEYS)
def test_lora_xs_is_told_from_lora_by_its_third_tensor(tmp_path, key):
    A, R, B = (torch.randn(shape) for shape in ((3, 24), (3, 3), (18, 3)))
    tensors = {"fc.lora_A.weight": A, "fc.lora_B.weight": B, key: R}
    base, adapter, _ = bare(tmp_path, tensors, peft_type="LORA", r=3, lora_alpha=6, alpha_pattern={"fc": 12})
    truth = {"fc.weight": 4 * B.double() @ R.double() @ A.double(), "conv.weight": torch.zeros(10, 4, 3, 3)}
    (pair,) = require_right(base, adapter, truth).values()
    assert pair.update.kind == "low rank"
    assert pair.allotted == 3
    with open_pairs(base, adapter) as pairs:
        assert pairs.info.method == "LoRA-XS"
        assert pairs.info.scalings == (4.0,)


@pytest.mark.parametrize("lacking", ["lora_A", "lora_B", "lora_latent_mapping"])
def test_lora_xs_without_one_of_its_tensors_is_refused(tmp_path, lacking):
    tensors = {f"{module}.lora_{name}.weight": torch.randn(shape) for module, name, shape in (
        ("fc", "A", (3, 24)), ("fc", "B", (18, 3)), ("conv", "A", (3, 4, 3, 3)), ("conv", "B", (10, 3, 1, 1)),
    )}  # fmt: skip
    tensors["fc_lora_latent_mapping.weight"] = tensors["conv_lora_latent_mapping.weight"] = torch.randn(3, 3)
    kept = {key: value.clone() for key, value in tensors.items() if not key.startswith("conv")}
    lost = {key: value for key, value in kept.items() if lacking not in key or not key.startswith("fc")}
    if lacking == "lora_latent_mapping":
        lost = {**lost, "conv_lora_latent_mapping.weight": torch.randn(3, 3)}
    base, adapter, _ = bare(tmp_path, lost, peft_type="LORA", r=3, lora_alpha=6)
    with pytest.raises(MatchError, match="is missing"):
        open_pairs(base, adapter)


# --- refusals


def refused(tmp_path, tensors, *fragments, kind=InputError, **config):
    base, adapter, _ = bare(tmp_path, tensors, **config)
    with pytest.raises(kind) as raised, open_pairs(base, adapter) as pairs:
        list(pairs)
    assert all(fragment in str(raised.value) for fragment in fragments), str(raised.value)


R15, SQUARE = torch.randn(4, 15), torch.randn(4, 6, 6)
NEW_OFT = {"peft_type": "OFT", "oft_block_size": 6, "use_cayley_neumann": True}
WRONG = {
    "AdaLoRA, ranks": (
        {"fc.lora_A": torch.randn(3, 24), "fc.lora_B": torch.randn(18, 3), "fc.lora_E": torch.randn(2, 1)},
        {"peft_type": "ADALORA"}, ("'fc'", "disagree", "lora_E [2, 1]"),
    ),
    "AdaLoRA, no E": (
        {"fc.lora_A": torch.randn(3, 24), "fc.lora_B": torch.randn(18, 3)},
        {"peft_type": "ADALORA"}, ("lora_E is missing",),
    ),
    "AdaLoRA, another base": (
        {"fc.lora_A": torch.randn(3, 20), "fc.lora_B": torch.randn(18, 3), "fc.lora_E": torch.randn(3, 1)},
        {"peft_type": "ADALORA"}, ("'fc.weight'", "[18, 24]", "[18, 20]"),
    ),
    "LoHa, halves": (
        {f"fc.hada_w{half}_{side}": torch.randn(shape) for half, side, shape in (
            (1, "a", (18, 2)), (1, "b", (2, 24)), (2, "a", (18, 2)), (2, "b", (2, 22)))},
        {"peft_type": "LOHA", "r": 2}, ("'fc'", "disagree"),
    ),
    "LoKr, no factor": ({"fc.lokr_w1": torch.randn(3, 4)}, {"peft_type": "LOKR"}, ("lokr_w2_a is missing",)),
    "LoKr, a factor of one dimension": (
        {"fc.lokr_w1": torch.randn(3, 4), "fc.lokr_w2": torch.randn(36)}, {"peft_type": "LOKR"}, ("is missing",),
    ),
    "OFT, which series": (
        {"fc.oft_R.weight": R15}, {"peft_type": "OFT", "oft_block_size": 6}, ("use_cayley_neumann", "sign"),
    ),
    "OFT, no triangle": ({"fc.oft_R.weight": torch.randn(4, 14)}, NEW_OFT, ("disagree",)),
    "OFT, another base": ({"fc.oft_R.weight": torch.randn(5, 15)}, NEW_OFT, ("[18, 24]", "[18, 30]")),
    "OFT, one block that is not shared": ({"fc.oft_R.weight": torch.randn(1, 15)}, NEW_OFT, ("[18, 24]", "[18, 6]")),
    "OFT, a shared block that does not divide": (
        {"fc.oft_R.weight": torch.randn(1, 10)}, {**NEW_OFT, "block_share": True}, ("'fc'", "[18, 24]"),
    ),
    "OFT 0.14, no scale": ({"fc.oft_r": SQUARE}, {"peft_type": "OFT", "oft_block_size": 6}, ("oft_s is missing",)),
    "OFT 0.13, not square": ({"fc.oft_r": torch.randn(4, 6, 5)}, {"peft_type": "OFT", "r": 4}, ("disagree",)),
    "OFT 0.13, another base": ({"fc.oft_r": SQUARE}, {"peft_type": "OFT", "r": 4}, ("'fc'", "[18, 24]")),
    "BOFT, stages that do not fit": (
        {"fc.boft_R": torch.randn(2, 8, 3, 3), "fc.boft_s": torch.ones(18, 1)}, {"peft_type": "BOFT"}, ("disagree",),
    ),
    "IA3, a matrix": ({"fc.ia3_l": torch.randn(18, 2)}, {"peft_type": "IA3"}, ("disagree",)),
    "IA3, another base": ({"fc.ia3_l": torch.randn(1, 20)}, {"peft_type": "IA3"}, ("[18, 24]", "[18, 20]")),
    "IA3, another kernel": ({"conv.ia3_l": torch.randn(1, 7, 1, 1)}, {"peft_type": "IA3"}, ("'conv'", "[7]")),
    "IA3, a kernel's outputs as inputs": (
        {"conv.ia3_l": torch.randn(1, 10, 1, 1)}, {"peft_type": "IA3", "feedforward_modules": ["conv"]}, ("'conv'",),
    ),
    "IA3, a list that is none": (
        {"conv.ia3_l": torch.randn(1, 10, 1, 1)}, {"peft_type": "IA3", "feedforward_modules": 3},
        ("feedforward_modules", "must be a list"),
    ),
    "HRA, another base": ({"fc.hra_u": torch.randn(20, 3)}, {"peft_type": "HRA"}, ("[18, 24]", "[18, 20]")),
    "HRA, Gram-Schmidt of equal vectors": (
        {"fc.hra_u": torch.ones(24, 2)}, {"peft_type": "HRA", "apply_GS": True}, ("'fc'", "Gram-Schmidt"),
    ),
    "RoAd, an unknown variant": (
        {"fc.road_theta": torch.ones(9), "fc.road_alpha": torch.ones(9)},
        {"peft_type": "ROAD", "variant": "road_3"}, ("variant is 'road_3'",),
    ),
    "RoAd, groups that do not divide": (
        {"fc.road_theta": torch.ones(9), "fc.road_alpha": torch.ones(9)},
        {"peft_type": "ROAD", "variant": "road_1", "group_size": 4}, ("18 outputs", "groups of 4"),
    ),
    "RoAd, another variant's numbers": (
        {"fc.road_theta": torch.ones(18), "fc.road_alpha": torch.ones(18)},
        {"peft_type": "ROAD", "variant": "road_1", "group_size": 2}, ("[18, 24]", "[36, 24]"),
    ),
    "VeRA, no projection": (
        {"fc.vera_lambda_b": torch.ones(18), "fc.vera_lambda_d": torch.ones(4)},
        {"peft_type": "VERA", "save_projection": True}, ("no vera_A",),
    ),
    "VeRA, no seed": (
        {"fc.vera_lambda_b": torch.ones(18), "fc.vera_lambda_d": torch.ones(4)},
        {"peft_type": "VERA", "save_projection": False}, ("projection_prng_key is None",),
    ),
    "VeRA, a projection too narrow": (
        {"fc.vera_lambda_b": torch.ones(18), "fc.vera_lambda_d": torch.ones(4)}, {"peft_type": "VERA"}, ("vera_A",),
    ),
    "MiSS, another base": ({"fc.miss_block": torch.ones(4, 20)}, {"peft_type": "MISS"}, ("[18, 24]", "[20, 24]")),
    "MiSS, mini that does not divide": (
        {"fc.miss_block": torch.ones(4, 5)}, {"peft_type": "MISS", "init_weights": "mini"}, ("'fc'", "[4, 5]"),
    ),
    "Bone, bat that does not divide": ({"fc.bone_block": torch.ones(2, 9, 9)}, {"peft_type": "BONE"}, ("'fc'",)),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused_with_one_sentence(tmp_path, name):
    tensors, config, fragments = WRONG[name]
    refused(tmp_path, tensors, *fragments, **config)


def test_a_shared_projection_that_is_too_narrow_is_refused(tmp_path):
    lambdas = {"model.fc.vera_lambda_b": torch.ones(18), "model.fc.vera_lambda_d": torch.ones(4)}
    base, adapter, _ = bare(tmp_path, {}, peft_type="VERA")
    shared = {"vera_A": torch.ones(4, 20), "vera_B": torch.ones(18, 4)}
    tensors = {**{key.removeprefix("model."): value for key, value in lambdas.items()}}
    save_file(
        {
            **{f"base_model.model.{key}": value for key, value in tensors.items()},
            **{f"base_model.{key}": value for key, value in shared.items()},
        },
        adapter / "adapter_model.safetensors",
    )
    with pytest.raises(MatchError, match=r"'fc'.*vera_A is \[4, 20\]"), open_pairs(base, adapter) as pairs:
        list(pairs)


def test_projections_are_not_drawn_again_without_every_module(tmp_path):
    """The widest module gives the projections their size: one that the base lacks could be it."""
    tensors = {
        f"{name}.vera_lambda_{one}": torch.ones(size) for name in ("fc", "gone") for one, size in (("b", 18), ("d", 4))
    }
    base, adapter, _ = bare(tmp_path, tensors, peft_type="VERA", save_projection=False, projection_prng_key=0)
    with (
        open_pairs(base, adapter, allow_unmatched=True) as pairs,
        pytest.raises(MatchError, match="match nothing in the base"),
    ):
        list(pairs)


def test_a_kernel_of_ia3_with_as_many_inputs_as_outputs_needs_its_configuration(tmp_path):
    (tmp_path / "base").mkdir()
    save_file({"conv.weight": torch.randn(6, 6, 3, 3)}, tmp_path / "base" / "model.safetensors")
    _, adapter, _ = bare(tmp_path / "other", {"conv.ia3_l": torch.randn(1, 6, 1, 1)}, peft_type="IA3")
    with open_pairs(tmp_path / "base", adapter) as pairs, pytest.raises(FormatError, match="feedforward_modules"):
        list(pairs)


def test_trainable_tokens_beside_an_adalora_are_read(tmp_path):
    options = {"init_r": 3, "trainable_token_indices": {"embed": [3, 7]}}
    base, adapter, truth = made(tmp_path, Net(), configured(peft.AdaLoraConfig, ["wide"], options))
    assert set(require_right(base, adapter, truth)) == {"embed.weight", "wide.weight"}


@pytest.mark.parametrize(("names", "axis"), [("conv", 0), (".*conv", 1), (["conv"], 1), (["deep"], 0), ([], 0)])
def test_an_expression_must_match_the_whole_name_and_a_name_only_its_end(tmp_path, names, axis):
    gain, W = torch.randn(1, 6, 1, 1), torch.randn(6, 6, 3, 3)
    _, adapter, _ = bare(tmp_path, {"deep.conv.ia3_l": gain}, peft_type="IA3", feedforward_modules=names)
    save_file({"deep.conv.weight": W}, tmp_path / "base" / "model.safetensors")
    with open_pairs(tmp_path / "base", adapter) as pairs:
        (pair,) = pairs
    true = (gain if axis else gain.transpose(0, 1)) * W
    torch.testing.assert_close(pair.to_stored(pair.tuned()), true)


def test_what_is_not_scaled_by_alpha_says_no_alpha(tmp_path):
    for name, scaled in (("VeRA", False), ("MiSS", False), ("LoHa, patterns", True), ("LoKr, patterns", True)):
        config, targets, options, _ = CASES[name]
        base, adapter, _ = made(tmp_path / name.replace(" ", "_"), Net(), configured(config, targets, options))
        with open_pairs(base, adapter) as pairs:
            assert (bool(pairs.info.alphas), bool(pairs.info.scalings), bool(pairs.alphas)) == (scaled,) * 3, name
            assert pairs.info.ranks


# --- adapters made by strangers


@pytest.mark.parametrize("name", ["adalora_emot", "adalora_nerp"])
def test_a_real_adalora(real_data, name):
    """Its `r` (32, 16) is not used by AdaLoRA, and the stored rank is that of `init_r` (12)."""
    folder = real_data / "pairs" / "bert_tiny"
    tensors = load_file(folder / name / "adapter_model.safetensors")
    alpha = json.loads((folder / name / "adapter_config.json").read_text())["lora_alpha"]
    with open_pairs(folder / "ft_sst2_converted", folder / name) as pairs:
        found = {pair.key: pair for pair in pairs}
        assert pairs.info.method == "AdaLoRA"
    assert len(found) == 4
    for key, pair in found.items():
        A, B, E = (tensors[f"base_model.model.{key.removesuffix('.weight')}.lora_{part}"].double() for part in "ABE")
        true = B @ torch.diag(E[:, 0]) @ A * alpha / (12 + 1e-5)
        torch.testing.assert_close(pair.update.dense().double(), true, rtol=1e-5, atol=1e-6 * float(true.abs().max()))


def test_a_real_ia3_of_t5(real_data, tmp_path):
    """PEFT 0.3 saved it, on a base that is not kept here: one is made up with its names and shapes."""
    folder = real_data / "adapters" / "non_lora" / "ia3_mt0_large"
    tensors = torch.load(folder / "adapter_model.bin", map_location="cpu", weights_only=True)
    gains = {key.removeprefix("base_model.model.").removesuffix(".ia3_l"): value for key, value in tensors.items()}
    chosen = sorted(gains)[:2] + [name for name in sorted(gains) if name.endswith("wi_1")][:1]
    (tmp_path / "base").mkdir()
    base = {f"{name}.weight": torch.randn(len(gains[name]), 8) for name in chosen}
    save_file(base, tmp_path / "base" / "model.safetensors")
    with open_pairs(tmp_path / "base", folder, allow_unmatched=True) as pairs:
        found = {pair.key: pair.tuned() for pair in pairs}
    assert found.keys() == base.keys()
    for key, value in found.items():
        torch.testing.assert_close(value, base[key] * gains[key.removesuffix(".weight")])
