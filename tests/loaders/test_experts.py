"""Experts stacked in one tensor: a pair each, in full fine-tunes and under LoRA on parameters, through every report."""

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import spectra
from spectra import open_pairs
from spectra.cli.main import cli
from spectra.errors import InputError, MatchError, UnsupportedError, UsageError
from spectra.loaders.base import open_base
from spectra.loaders.source import FileSource

pytestmark = pytest.mark.filterwarnings("ignore")
E, WIDTH, INNER = 3, 16, 10
UP, DOWN = "layers.0.mlp.experts.gate_up_proj", "layers.0.mlp.experts.down_proj"


def stacks(seed, *, turned=False, inner=INNER, names=(UP, DOWN)):
    """Return two stacks `[experts, out, in]`, or `[experts, in, out]`."""
    generator = torch.Generator().manual_seed(seed)
    up, down = (torch.randn(E, *shape, generator=generator) for shape in ((2 * inner, WIDTH), (WIDTH, inner)))
    return dict(zip(names, (up.mT.contiguous(), down.mT.contiguous()) if turned else (up, down), strict=True))


def on_disk(folder, state, config=None, pickled=False):
    folder.mkdir(parents=True)
    if pickled:
        torch.save(state, folder / "pytorch_model.bin")
    else:
        save_file(state, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


# --- stacks on both sides ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("where", ["memory", "safetensors", "pickle"])
def test_a_full_fine_tune_is_a_pair_an_expert(tmp_path, turned, where):
    base, tuned = stacks(1, turned=turned), stacks(2, turned=turned)
    tuned[UP][1] = base[UP][1]
    sides = base, tuned
    if where != "memory":
        sides = [
            on_disk(tmp_path / name, side, None, where == "pickle") for name, side in zip("bt", sides, strict=True)
        ]
    with open_pairs(*sides) as pairs:
        found = list(pairs)
        assert len(pairs) == len(found) == 2 * E
        keys = (UP, DOWN) if where != "safetensors" else (DOWN, UP)  # safetensors sorts
        assert pairs.keys == keys
        assert pairs.places == tuple((key, number) for key in keys for number in range(E))
        assert (UP, 2) in pairs
        assert (UP, 3) not in pairs
        assert UP in pairs
        assert torch.equal(pairs.pair(keys[1], 1).base, found[E + 1].base)
    for pair in found:
        stored = base[pair.key][pair.index]
        assert pair.shape == ((2 * INNER, WIDTH) if pair.key == UP else (WIDTH, INNER))
        assert pair.layout.kind == ("transposed" if turned else "linear")
        assert torch.equal(pair.to_stored(pair.base), stored)
        assert torch.equal(pair.to_stored(pair.update.dense()), tuned[pair.key][pair.index] - stored)
        assert pair.base_storage.parameters == pair.update_storage.parameters == stored.numel()
        assert pair.notes == ()


def test_a_stack_is_read_expert_by_expert(tmp_path, monkeypatch):
    sides = [on_disk(tmp_path / name, stacks(seed)) for name, seed in (("b", 1), ("t", 2))]

    def whole(self, key):
        raise AssertionError(f"{key} was read whole")

    monkeypatch.setattr(FileSource, "tensor", whole)
    with open_pairs(*sides) as pairs:
        assert len(list(pairs)) == 2 * E


def test_an_expert_is_asked_for_by_its_number(tmp_path):
    base, tuned = stacks(1) | {"w.weight": torch.ones(4, 4)}, stacks(2) | {"w.weight": torch.zeros(4, 4)}
    with open_pairs(base, tuned, include=["gate_up", "w.weight"]) as pairs:
        assert pairs.keys == (UP, "w.weight")
        assert dict(pairs.skipped)[DOWN] == "left out by include / exclude"
        assert (DOWN, 0) not in pairs
        with pytest.raises(InputError, match="holds 3 experts: ask for one by its index, from 0 to 2"):
            pairs.pair(UP)
        with pytest.raises(InputError, match="holds 3 experts"):
            pairs.pair(UP, 3)
        with pytest.raises(InputError, match="no expert 1 in it"):
            pairs.pair("w.weight", 1)
        with pytest.raises(InputError, match="left out"):
            pairs.pair(DOWN, 1)


LAYOUTS = {
    # Whatever can be told from the shapes is; the architecture only where they leave it open.
    "fused, by its partner": ((20, 16), (16, 10), {}, False, False),
    "fused and turned": ((16, 20), (10, 16), {}, True, False),
    "fused, square down": ((32, 16), (16, 16), {}, False, False),
    "fused and turned, square down": ((16, 32), (16, 16), {}, True, False),
    "fused, square up": ((16, 16), (16, 8), {}, False, False),
    "by the model's width": ((20, 16), None, {"hidden_size": 16}, False, False),
    "turned, by the model's width": ((16, 20), None, {"text_config": {"hidden_size": 16}}, True, False),
    "by shape against the architecture": ((20, 16), None, {"hidden_size": 16, "model_type": "gpt_oss"}, False, False),
    "by the architecture": ((16, 16), None, {"hidden_size": 16, "model_type": "gpt_oss"}, True, False),
    "by the inner architecture": ((16, 16), None, {"text_config": {"model_type": "llama4_text"}}, True, False),
    "open": ((16, 16), None, {"hidden_size": 16}, False, True),
    "open, without configuration": ((20, 16), None, {}, False, True),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_how_experts_lie_in_their_tensor(tmp_path, name):
    up, down, config, turned, open_ = LAYOUTS[name]
    shapes = {UP: up} | ({DOWN: down} if down else {})
    sides = [
        on_disk(tmp_path / side, {key: torch.randn(E, *shape) for key, shape in shapes.items()}, config)
        for side in "bt"
    ]
    with open_pairs(*sides) as pairs:
        for pair in pairs:
            assert pair.layout.kind == ("transposed" if turned else "linear"), pair.key
            assert any("taken as [experts, out, in]" in note for note in pair.notes) == open_


def test_what_is_a_stack_and_what_is_not():
    config = {"num_local_experts": 4}
    state = {
        "a.experts.gate_up_proj": (4, 6, 5),
        "a.experts.w1.weight": (2, 6, 5),  # whatever their number
        "a.block_sparse_moe.input_linear.weight": (4, 6, 5),
        "a.ffn_up_exps.weight": (2, 6, 5),
        "a.experts.3.conv.weight": (4, 6, 5),
        "a.conv1.weight": (4, 6, 5),
        "a.mixer.weight": (3, 6, 5),
        "a.experts.bias": (4, 6, 5),
        "a.experts.w2.weight": (8, 6),
    }
    base = open_base({key: torch.ones(shape) for key, shape in state.items()})
    base.source.config = config
    counts = {key: base.stack(key).count if base.stack(key) else None for key in state}
    assert list(counts.values())[:4] == [4, 2, 4, 2]
    assert list(counts.values())[4:7] == [None] * 3
    assert counts["a.experts.w2.weight"] is None
    assert base.reason_against("a.experts.bias").startswith("a bias")


def test_stacks_of_other_sizes_are_refused(tmp_path):
    with pytest.raises(MatchError, match=r"\[3, 20, 16\].*\[3, 22, 16\]"):
        open_pairs(stacks(1), stacks(2, inner=11))


# --- LoRA on parameters ---------------------------------------------------------------------------------------------


class Experts(torch.nn.Module):
    """Experts as transformers has them; `parameters_` in the order of registration, `[experts, out, in]` or turned."""

    def __init__(self, shapes, *, flag=None):
        super().__init__()
        for name, shape in shapes.items():
            setattr(self, name, torch.nn.Parameter(torch.randn(shape)))
        if flag is not None:
            self.is_transposed = flag

    def forward(self, x):
        return x


class Mlp(torch.nn.Module):
    def __init__(self, shapes, **options):
        super().__init__()
        self.experts = Experts(shapes, **options)
        self.gate = torch.nn.Linear(WIDTH, E, bias=False)


class Block(torch.nn.Module):
    def __init__(self, shapes, **options):
        super().__init__()
        self.q_proj = torch.nn.Linear(WIDTH, WIDTH, bias=False)
        self.mlp = Mlp(shapes, **options)

    def forward(self, x):
        return x


class Net(torch.nn.Module):
    def __init__(self, shapes, **options):
        super().__init__()
        self.layers = torch.nn.ModuleList(Block(shapes, **options) for _ in range(2))

    def forward(self, x):
        return x


FUSED = {"gate_up_proj": (E, 2 * INNER, WIDTH), "down_proj": (E, WIDTH, INNER)}
TURNED = {name: (e, inputs, out) for name, (e, out, inputs) in FUSED.items()}
BOTH = ["experts.gate_up_proj", "experts.down_proj"]


def made(folder, shapes, *, config=None, flag=None, targets=BOTH, modules=("q_proj",), **options):
    """Save a base and LoRA on its parameters; return the true dW by PEFT's merge in float64."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(2)
    model = Net(shapes, flag=flag)
    on_disk(folder / "base", {key: value.clone() for key, value in model.state_dict().items()}, config)
    before = {key: value.double() for key, value in model.state_dict().items()}
    settings = peft.LoraConfig(r=2, lora_alpha=6, target_modules=list(modules), target_parameters=targets, **options)
    wrapped = peft.get_peft_model(model, settings)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    wrapped.save_pretrained(folder / "adapter")
    after = wrapped.double().merge_and_unload().state_dict()
    return {key: after[key] - value for key, value in before.items() if (after[key] - value).abs().max() > 1e-9}


def reconfigured(folder, **options):
    path = folder / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


def require_right(folder, truth):
    """Assert that the pairs are the truth, every stored number of the adapter counted once."""
    with open_pairs(folder / "base", folder / "adapter") as pairs:
        found = list(pairs)
        stored = pairs.tuned_header.parameters
    assert {pair.key for pair in found} == set(truth)
    for pair in found:
        expected = truth[pair.key] if pair.index is None else truth[pair.key][pair.index]
        torch.testing.assert_close(pair.to_stored(pair.update.dense()).double(), expected, rtol=1e-5, atol=1e-5)
        B, A = pair.update.factors
        assert pair.allotted == B.shape[1] == A.shape[0]
    for key, value in truth.items():
        assert [pair.index for pair in found if pair.key == key] == ([None] if value.ndim == 2 else list(range(E)))
    assert sum(pair.update_storage.parameters for pair in found) == stored
    return found


PARAMETERS = {
    "both": (FUSED, {}),
    "both, turned and flagged": (TURNED, {"flag": True}),
    "both, turned and not flagged": (TURNED, {"flag": False}),
    "whole names": (FUSED, {"targets": ["layers.1.mlp.experts.down_proj", "layers.0.mlp.experts.gate_up_proj"]}),
    "a bare name": (FUSED, {"targets": ["down_proj"]}),
    "one": (FUSED, {"targets": ["mlp.experts.gate_up_proj"], "use_rslora": True}),
    "no modules": (FUSED, {"modules": ()}),
    "patterns of parameters": (
        FUSED,
        {
            "rank_pattern": {"experts.down_proj": 3, "layers.1.mlp.experts.gate_up_proj": 1},
            "alpha_pattern": {"gate_up_proj": 11, "experts": 17},
        },
    ),
    "a matrix beside": (FUSED, {"targets": [*BOTH, "gate.weight"]}),
    "a matrix with patterns": (FUSED, {"targets": ["gate.weight"], "rank_pattern": {"gate": 7, "gate.weight": 1}}),
    "three of one module": (
        {"gate_proj": (E, INNER, WIDTH), "up_proj": (E, INNER, WIDTH), "down_proj": (E, WIDTH, INNER)},
        {"targets": ["experts.up_proj", "experts.down_proj", "experts.gate_proj"]},
    ),
    "a stack of one shape, square": ({"gate_up_proj": (E, WIDTH, WIDTH)}, {"targets": ["experts.gate_up_proj"]}),
    "square down beside": ({"gate_up_proj": (E, 2 * WIDTH, WIDTH), "down_proj": (E, WIDTH, WIDTH)}, {}),
    "square down beside, flagged": (
        {"gate_up_proj": (E, WIDTH, 2 * WIDTH), "down_proj": (E, WIDTH, WIDTH)},
        {"flag": True},
    ),
    "square down beside, turned and not flagged": (
        {"gate_up_proj": (E, WIDTH, 2 * WIDTH), "down_proj": (E, WIDTH, WIDTH)},
        {"flag": False},
    ),
    "unknown names, told apart by shape": (
        {"alpha": (E, 7, WIDTH), "beta": (E, WIDTH, 5)},
        {"targets": ["experts.alpha", "experts.beta"], "config": {"num_experts": E}},
    ),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_lora_on_parameters_is_what_peft_merges(tmp_path, name):
    shapes, options = PARAMETERS[name]
    found = require_right(tmp_path, made(tmp_path, shapes, **options))
    square = "a stack of one shape" in name
    assert any("square" in note for pair in found for note in pair.notes) == square


def test_a_headless_base_and_saved_adapter_names(tmp_path):
    truth = made(tmp_path, FUSED)
    state = load_file(tmp_path / "base" / "model.safetensors")
    save_file({f"model.{key}": value for key, value in state.items()}, tmp_path / "base" / "model.safetensors")
    require_right(tmp_path, {f"model.{key}": value for key, value in truth.items()})


def by_rule(stored, base, *, swapped, scaling=3.0):
    """Return dW of a stack from its stored factors, as the two rules of PEFT have it."""
    A = stored["lora_A"].double().reshape(E, -1, stored["lora_A"].shape[1])
    B = stored["lora_B"].double().reshape(stored["lora_B"].shape[0], -1, E)
    told = "ore,eri->eoi" if swapped else "ore,eri->eio"
    delta = torch.einsum(told, B, A) * scaling
    assert delta.shape == base.shape
    return delta


VERSIONS = {
    # written by, architecture, whether the file's [d1, d2] gets B A (swapped) or its transpose
    "before 0.18, which is not named": (None, "qwen", False),
    "0.18.1": ("0.18.1", "qwen", False),
    "0.18, gpt-oss": ("0.18.0", "gpt_oss", False),
    "0.19.0": ("0.19.0", "qwen", False),
    "0.19.0, gpt-oss": ("0.19.0", "gpt_oss", True),
    "0.19.1": ("0.19.1", "qwen", True),
    "0.19.1, gpt-oss": ("0.19.1", "gpt_oss", False),
    "of a commit": ("0.20.1.dev0@3ccc225", "qwen", True),
    "1.0": ("1.0", "llama4_text", True),
    "no number": ("main", "qwen", False),
}


@pytest.mark.parametrize("name", VERSIONS)
def test_square_experts_go_by_the_version_that_wrote_them_and_say_so(tmp_path, name):
    version, kind, swapped = VERSIONS[name]
    key = "layers.0.mlp.experts.down_proj"
    base = {key: torch.randn(E, 8, 8)}
    on_disk(tmp_path / "base", base, {"model_type": kind, "hidden_size": 8})
    (tmp_path / "adapter").mkdir()
    factors = {"lora_A": torch.randn(2 * E, 8), "lora_B": torch.randn(8, 2 * E)}
    save_file(
        {f"base_model.model.layers.0.mlp.experts.{part}.weight": value for part, value in factors.items()},
        tmp_path / "adapter" / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_parameters": ["experts.down_proj"]}
    config |= {"peft_version": version} if version else {}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    found = require_right(tmp_path, {key: by_rule(factors, base[key], swapped=swapped)})
    assert all(any("square" in note and (version or "before 0.18") in note for note in pair.notes) for pair in found)


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("version", [None, "0.18.1", "0.19.0", "0.21.2"])
def test_shapes_tell_whatever_the_version_says(tmp_path, swapped, version):
    """The rule of one version in a file of another, as transformers 4 and 5 make of one model."""
    key, (d1, d2) = UP, (2 * INNER, WIDTH)
    base = stacks(1)
    on_disk(tmp_path / "base", base)
    (tmp_path / "adapter").mkdir()
    inputs, outputs = (d2, d1) if swapped else (d1, d2)
    factors = {"lora_A": torch.randn(2 * E, inputs), "lora_B": torch.randn(outputs, 2 * E)}
    save_file(
        {f"base_model.model.layers.0.mlp.experts.{part}.weight": value for part, value in factors.items()},
        tmp_path / "adapter" / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_parameters": ["experts.gate_up_proj"]}
    config |= {"peft_version": version} if version else {}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    found = require_right(tmp_path, {key: by_rule(factors, base[key], swapped=swapped)})
    assert all(pair.notes == () for pair in found)


SPELLINGS = {
    "qwen": ("mlp.experts", ("gate_proj", "up_proj", "down_proj")),
    "mixtral": ("block_sparse_moe.experts", ("w1", "w3", "w2")),
    "feed forward": ("mlp.experts", ("fc1", "fc3", "fc2")),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_experts_that_the_files_hold_one_by_one(tmp_path, name):
    """What transformers 5 fuses on loading: gate above up, expert by expert."""
    where, (gate, up, down) = SPELLINGS[name]
    truth = made(tmp_path, FUSED)
    state, single = load_file(tmp_path / "base" / "model.safetensors"), {}

    def spread(tensors):
        parts = {}
        for key, value in tensors.items():
            front, _, last = key.rpartition(".")
            if ".experts." not in key:
                parts[key] = value
                continue
            front = front.replace("mlp.experts", where)
            for number, one in enumerate(value):
                halves = {gate: one[:INNER], up: one[INNER:]} if last == "gate_up_proj" else {down: one}
                parts |= {f"{front}.{number}.{part}.weight": half.contiguous() for part, half in halves.items()}
        return parts

    single = spread(state)
    save_file(single, tmp_path / "base" / "model.safetensors")
    found = require_right(tmp_path, spread(truth))
    assert all(pair.notes == () for pair in found)
    with open_pairs(tmp_path / "base", tmp_path / "adapter") as pairs:
        assert pairs.info.ranks == (2,)
        assert pairs.alphas[f"layers.0.{where}.1.{gate}.weight"] == {"layers.0.mlp.experts.gate_up_proj": 6.0}


def test_a_granite_stack_goes_by_another_name_in_memory(tmp_path):
    truth = made(tmp_path, FUSED)
    names = {"gate_up_proj": "input_linear.weight", "down_proj": "output_linear.weight"}

    def renamed(key):
        last = key.rpartition(".")[2]
        return key.replace(f"mlp.experts.{last}", f"block_sparse_moe.{names[last]}") if last in names else key

    state = load_file(tmp_path / "base" / "model.safetensors")
    save_file({renamed(key): value for key, value in state.items()}, tmp_path / "base" / "model.safetensors")
    (tmp_path / "base" / "config.json").write_text(json.dumps({"num_local_experts": E, "hidden_size": WIDTH}))
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    stored = {key.replace(".mlp.experts.", ".block_sparse_moe.experts."): value for key, value in stored.items()}
    save_file(stored, tmp_path / "adapter" / "adapter_model.safetensors")
    require_right(tmp_path, {renamed(key): value for key, value in truth.items()})


def test_what_experts_had_before_training_is_subtracted(tmp_path):
    truth = made(tmp_path / "after", FUSED)
    made(tmp_path / "before", FUSED)
    path = tmp_path / "before" / "adapter" / "adapter_model.safetensors"
    save_file({key: value.flip(0).contiguous() for key, value in load_file(path).items()}, path)
    with open_pairs(tmp_path / "before" / "base", tmp_path / "before" / "adapter") as pairs:
        started = {(pair.key, pair.index): pair.to_stored(pair.update.dense()) for pair in pairs}
    base, adapter = tmp_path / "after" / "base", tmp_path / "after" / "adapter"
    with open_pairs(base, adapter, initial=tmp_path / "before" / "adapter") as pairs:
        for pair in pairs:
            expected = truth[pair.key] if pair.index is None else truth[pair.key][pair.index]
            expected = expected.float() - started[pair.key, pair.index]
            torch.testing.assert_close(pair.to_stored(pair.update.dense()), expected, rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_is_refused(tmp_path):
    alike = {"one": (E, 6, WIDTH), "two": (E, 6, WIDTH)}
    made(tmp_path / "a", alike, targets=["experts.one", "experts.two"])
    with pytest.raises(UnsupportedError, match=r"\(one, two\) have one shape"):
        open_pairs(tmp_path / "a" / "base", tmp_path / "a" / "adapter")

    made(tmp_path / "b", FUSED)
    reconfigured(tmp_path / "b", target_parameters=["experts.gate_up_proj"])
    with pytest.raises(MatchError, match="is wrapped 2 times, and target_parameters names 1"):
        open_pairs(tmp_path / "b" / "base", tmp_path / "b" / "adapter")
    reconfigured(tmp_path / "b", target_parameters=["experts.nothing"])
    with pytest.raises(MatchError, match=r"target_parameters \(experts.nothing\) the base has none"):
        open_pairs(tmp_path / "b" / "base", tmp_path / "b" / "adapter")
    reconfigured(tmp_path / "b", target_parameters="experts")
    with pytest.raises(MatchError, match="must be a list of names"):
        open_pairs(tmp_path / "b" / "base", tmp_path / "b" / "adapter")
    reconfigured(tmp_path / "b", target_parameters=None)
    with pytest.raises(InputError, match="experts"):
        open_pairs(tmp_path / "b" / "base", tmp_path / "b" / "adapter")

    made(tmp_path / "c", {"gate_up_proj": (E, 2 * INNER, WIDTH)}, targets=["experts.gate_up_proj"])
    state = {f"layers.{layer}.mlp.experts.gate_up_proj": torch.ones(4, 2 * INNER, WIDTH) for layer in range(2)}
    state |= {f"layers.{layer}.q_proj.weight": torch.ones(WIDTH, WIDTH) for layer in range(2)}
    on_disk(tmp_path / "d", state)
    with pytest.raises(MatchError, match="fit none of its parameters"):
        open_pairs(tmp_path / "d", tmp_path / "c" / "adapter")


def test_one_update_for_a_whole_stack_is_refused(tmp_path):
    on_disk(tmp_path / "base", stacks(1))
    (tmp_path / "adapter").mkdir()
    front = f"base_model.model.{UP}"
    save_file(
        {f"{front}.lora_A.weight": torch.ones(2, WIDTH), f"{front}.lora_B.weight": torch.ones(20, 2)},
        tmp_path / "adapter" / "adapter_model.safetensors",
    )
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 2, "lora_alpha": 2}')
    with pytest.raises(UnsupportedError, match="holds 3 experts in one tensor, and the adapter has one update"):
        open_pairs(tmp_path / "base", tmp_path / "adapter")


# --- through the rest of the package --------------------------------------------------------------------------------


def test_rows_are_told_apart_by_key_and_number(tmp_path):
    truth = made(tmp_path, FUSED, config={"hidden_size": WIDTH})
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    report = spectra.diagnose(base, adapter, k=3)
    places = [(row.key, row.index) for row in report.rows]
    assert len(set(places)) == len(places) == 2 * (2 * E + 1)
    assert {row.to_dict()["index"] for row in report.rows} == {None, 0, 1, 2}
    exact = spectra.diagnose(base, adapter, k=3, method="exact")
    assert [row.found for row in exact.rows] == [row.found for row in report.rows]
    # Every expert is measured against its own base, not against the one before it.
    with open_pairs(base, adapter) as pairs:
        for row, pair in zip(exact.rows, pairs, strict=True):
            assert row.norm.base == pytest.approx(float(pair.base.norm()), rel=1e-5)
            assert row.spectrum.base[0] == pytest.approx(float(torch.linalg.svdvals(pair.base)[0]), rel=1e-4)
    assert len(report.to_csv().splitlines()) == 1 + len(places)
    page = report.to_html()
    assert all(f"{key}[{number}]" in page for key, number in places if number is not None)
    assert "down_proj[2]" in str(spectra.sweep(base, adapter, k=3, scales=[1, 60])) + page
    assert truth.keys() == {key for key, _ in places}


def test_models_are_compared_expert_by_expert(tmp_path):
    made(tmp_path, FUSED)
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tuned = load_file(base / "model.safetensors")
    tuned[UP][1] += torch.randn(tuned[UP][1].shape)
    on_disk(tmp_path / "full", tuned)
    found = spectra.compare(base, {"lora": adapter, "full": tmp_path / "full"}, k=3, matrix=f"{UP}[1]")
    assert found.matrix == f"{UP}[1]"
    assert found.maps.keys() == {"lora", "full"}
    for name, model in (("lora", adapter), ("full", tmp_path / "full")):
        alone = spectra.diagnose(base, model, k=3)
        together = found.models[name].rows
        assert [(row.key, row.index, row.status, row.found) for row in together] == [
            (row.key, row.index, row.status, row.found) for row in alone.rows
        ]
    zero = [row.index for row in found.models["full"].rows if row.key == UP and row.status == "zero_update"]
    assert zero == [0, 2]
    page = found.to_html()
    assert all(f"{key}[{number}]" in page for key in (UP, DOWN) for number in range(E))
    with pytest.raises(UsageError, match="Did you mean"):
        spectra.compare(base, {"lora": adapter}, matrix=f"{UP}[7]")
    result = CliRunner().invoke(cli, ["compare", str(base), "--lora", f"a={adapter}", "--matrix", f"{UP}[2]"])
    assert result.exit_code == 0


def test_the_alpha_of_a_stack_is_that_of_its_most_sensitive_expert(tmp_path):
    made(tmp_path, FUSED, modules=())
    swept = spectra.sweep(tmp_path / "base", tmp_path / "adapter", k=3, scales=[0, 0.1, 0.3, 0.6, 1])
    budgets = {key: [row.budget for row in swept.rows if row.key == key] for key in (UP, DOWN)}
    assert any(min(found) < 1 and len(set(found)) > 1 for found in budgets.values())
    pattern = swept.alpha_pattern()
    for key, found in budgets.items():
        assert pattern["^" + key.replace(".", r"\.")] == pytest.approx(6 * min(1.0, *found))


def test_a_base_of_stacks_is_decomposed_expert_by_expert(tmp_path, monkeypatch):
    monkeypatch.setenv("SPECTRA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("spectra.analysis.base_filling._too_small", lambda shape: None)
    base = on_disk(tmp_path / "base", stacks(1))
    filled = spectra.fill_base_cache(base)
    assert filled.made == [f"{key}[{number}]" for key in (DOWN, UP) for number in range(E)]
    assert spectra.fill_base_cache(base, include=["down"]).present == [f"{DOWN}[{number}]" for number in range(E)]
