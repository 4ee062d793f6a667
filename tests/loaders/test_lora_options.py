"""Every option of PEFT's LORA that changes what dW is: right as PEFT itself makes it, or refused in one sentence."""

import json
import math

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

import spectra
from spectra import open_pairs
from spectra.cli.main import cli
from spectra.errors import FormatError, InputError, MatchError, UnsupportedError, UsageError
from spectra.loaders.replication import layers_of

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = ("q_proj", "up_proj", "down_proj")


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = torch.nn.Linear(16, 16, bias=False)
        self.up_proj = torch.nn.Linear(16, 24, bias=False)
        self.down_proj = torch.nn.Linear(24, 16, bias=False)

    def forward(self, x):
        return self.down_proj(self.up_proj(self.q_proj(x)))


class Net(torch.nn.Module):
    def __init__(self, count=3):
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(20, 16)
        self.layers = torch.nn.ModuleList(Layer() for _ in range(count))
        self.config = Config(count)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x


class Config:
    """What PEFT asks of a model's configuration."""

    def __init__(self, count):
        self.num_hidden_layers = count

    def to_dict(self):
        return {"num_hidden_layers": self.num_hidden_layers}


def net(count=3, dtype=torch.float32):
    torch.manual_seed(1)
    return Net(count).to(dtype)


def saved(model, folder):
    folder.mkdir(parents=True)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    return state


def moved(wrapped):
    """Give every trained factor a value of its own, near the one it had."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name:
                parameter += torch.randn(parameter.shape, generator=generator).to(parameter.dtype) / 4
    return wrapped


def made(folder, model, **options):
    """Save a base, the adapter before and after training, and return the folder and the true dW by PEFT's merge."""
    peft = pytest.importorskip("peft")
    before = saved(model, folder / "base")
    options = {"target_modules": list(NAMES), "r": 4, "lora_alpha": 6} | options
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**options))
    wrapped.save_pretrained(folder / "initial")
    moved(wrapped).save_pretrained(folder / "adapter")
    after = wrapped.merge_and_unload().state_dict()
    return {key: after[key].double() - value.double() for key, value in before.items() if value.ndim > 1}


def require_right(folder, truth, *, atol=2e-5, **options):
    with open_pairs(folder / "base", folder / "adapter", **options) as pairs:
        found = {pair.key: pair for pair in pairs}
    for key, pair in found.items():
        update = pair.to_stored(pair.update.dense()).double()
        torch.testing.assert_close(update, truth[key], rtol=1e-4, atol=atol, msg=key)
        if pair.update.factors is not None:
            B, A = pair.update.factors
            torch.testing.assert_close(B @ A, pair.update.dense(), rtol=1e-4, atol=1e-5)
            assert pair.allotted == B.shape[1]
    assert found.keys() == {key for key, value in truth.items() if value.abs().max() > 1e-9}
    return found, pairs


def config_of(folder):
    return json.loads((folder / "adapter" / "adapter_config.json").read_text())


def reconfigured(folder, where="adapter", **options):
    path = folder / where / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | options))


# --- starts that change the base -----------------------------------------------------------------------------------

STARTS = {
    "PiSSA": {"init_lora_weights": "pissa"},
    "PiSSA with rsLoRA": {"init_lora_weights": "pissa", "use_rslora": True, "lora_alpha": 3},
    "PiSSA and DoRA": {"init_lora_weights": "pissa", "use_dora": True},
    "PiSSA of full rank": {"init_lora_weights": "pissa", "r": 16},
    "PiSSA by patterns": {
        "init_lora_weights": "pissa",
        "rank_pattern": {"q_proj": 2},
        "alpha_pattern": {"layers.1.up_proj": 9},
    },
    "OLoRA": {"init_lora_weights": "olora"},
    "OLoRA in capitals": {"init_lora_weights": "OLoRA"},
    "OLoRA and DoRA": {"init_lora_weights": "olora", "use_dora": True},
}


@pytest.mark.parametrize("options", STARTS.values(), ids=STARTS)
def test_a_start_that_is_computed_from_the_base_is_subtracted(tmp_path, options):
    found, pairs = require_right(tmp_path, made(tmp_path, net(), **options))
    name = "PiSSA" if options["init_lora_weights"] == "pissa" else "OLoRA"
    assert name in pairs.info.method
    assert all(any("computed from it and subtracted" in note for note in pair.notes) for pair in found.values())


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_8", "olora"])
def test_the_adapter_before_training_gives_the_same(tmp_path, start):
    truth = made(tmp_path, net(), init_lora_weights=start)
    for initial in (tmp_path / "initial", tmp_path / "initial" / "adapter_model.safetensors"):
        found, pairs = require_right(tmp_path, truth, initial=initial)
        assert all(any("before training are subtracted" in note for note in pair.notes) for pair in found.values())
    assert "stored" not in pairs.info.method


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_8", "olora", "corda", "lora_ga", "loftq", "of a later PEFT"])
@pytest.mark.parametrize("dora", [False, True])
def test_as_stored_is_the_product_of_the_factors_and_says_so(tmp_path, start, dora):
    base = saved(net(1), tmp_path / "base")
    truth = made(tmp_path / "plain", net(1), use_dora=dora)
    (tmp_path / "plain" / "adapter").rename(tmp_path / "adapter")
    reconfigured(tmp_path, init_lora_weights=start)
    found, pairs = require_right(tmp_path, truth, as_stored=True)
    assert base.keys() >= found.keys()
    known = start != "of a later PEFT"
    assert pairs.info.method.endswith(" (as stored)") == known
    assert all(any(note.startswith("as stored: ") for note in pair.notes) == known for pair in found.values())


NOT_RECOVERABLE = {
    "pissa_niter_8": "a random SVD",
    "corda": "data that no file holds",
    "lora_ga": "data that no file holds",
    "loftq": "a quantised base",
    "of a later PEFT": "no start of LoRA that is known",
}


@pytest.mark.parametrize("start", NOT_RECOVERABLE)
def test_a_start_that_cannot_be_computed_is_refused_with_the_remedies(tmp_path, start):
    made(tmp_path, net(1))
    reconfigured(tmp_path, init_lora_weights=start)
    with pytest.raises(UnsupportedError, match=NOT_RECOVERABLE[start]) as refusal:
        open_pairs(tmp_path / "base", tmp_path / "adapter")
    assert "--as-stored" in str(refusal.value)
    assert "--initial" in str(refusal.value)
    open_pairs(tmp_path / "base", tmp_path / "adapter", initial=tmp_path / "initial").close()


@pytest.mark.parametrize("start", ["gaussian", "eva", "orthogonal", "mica", True, False, None])
def test_a_start_that_leaves_the_base_alone_is_plain(tmp_path, start):
    truth = made(tmp_path, net(1))
    reconfigured(tmp_path, init_lora_weights=start)
    _, pairs = require_right(tmp_path, truth)
    assert pairs.info.method == "LoRA"


def test_an_initial_adapter_of_another_scaling_is_scaled_by_its_own(tmp_path):
    truth = made(tmp_path, net(1))
    at_start = load_file(tmp_path / "initial" / "adapter_model.safetensors")
    noise = {
        key: torch.randn(value.shape, generator=torch.Generator().manual_seed(9)) for key, value in at_start.items()
    }
    save_file(noise, tmp_path / "initial" / "adapter_model.safetensors")
    reconfigured(tmp_path, "initial", lora_alpha=20, use_rslora=True)
    for key, value in truth.items():
        name = f"base_model.model.{key.removesuffix('.weight')}"
        if f"{name}.lora_A.weight" in noise:
            value -= 20 / math.sqrt(4) * (noise[f"{name}.lora_B.weight"] @ noise[f"{name}.lora_A.weight"])
    require_right(tmp_path, truth, initial=tmp_path / "initial", atol=1e-4)


def test_an_initial_adapter_that_is_not_this_ones_is_refused(tmp_path):
    made(tmp_path / "one", net(1))
    made(tmp_path / "two", net(1), target_modules=["q_proj"])
    made(tmp_path / "three", net(1), r=2)
    base, adapter = tmp_path / "one" / "base", tmp_path / "one" / "adapter"
    with pytest.raises(MatchError, match=r"\(initial\) has no factors for '.*_proj', which the adapter has\. Is it"):
        open_pairs(base, adapter, initial=tmp_path / "two" / "initial")
    with pytest.raises(MatchError, match=r"\(initial\) has factors for '.*_proj', which the adapter has not\. Is it"):
        open_pairs(base, tmp_path / "two" / "adapter", initial=tmp_path / "one" / "initial")
    shapes = r"has lora_A \[2, \d+\], lora_B \[\d+, 2\] for '.*_proj', and the adapter lora_A \[4, \d+\]"
    with pytest.raises(MatchError, match=shapes):
        open_pairs(base, adapter, initial=tmp_path / "three" / "initial")
    with pytest.raises(InputError, match="nowhere"):
        open_pairs(base, adapter, initial=tmp_path / "nowhere")
    with pytest.raises(InputError, match="initial"):
        open_pairs(base, base, initial=tmp_path / "one" / "initial")
    with pytest.raises(UsageError, match="give one"):
        open_pairs(base, adapter, initial=tmp_path / "one" / "initial", as_stored=True)


@pytest.mark.parametrize("start", ["pissa", "olora"])
@pytest.mark.parametrize("square", [False, True])
def test_the_start_of_a_conv1d_is_that_of_its_stored_weight(tmp_path, start, square):
    if start == "olora" and not square:
        pytest.skip("PEFT gives a Conv1D that is not square factors that do not run")
    pytest.importorskip("transformers")
    from transformers.pytorch_utils import Conv1D

    class Block(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.c_proj = Conv1D(16 if square else 24, 16)

        def forward(self, x):
            return self.c_proj(x)

    torch.manual_seed(2)
    truth = made(tmp_path, Block(), target_modules=["c_proj"], fan_in_fan_out=True, init_lora_weights=start)
    (tmp_path / "base" / "config.json").write_text('{"model_type": "gpt2"}')
    require_right(tmp_path, truth)


def test_an_embedding_has_no_start(tmp_path):
    truth = made(tmp_path, net(1), target_modules=["embed_tokens", "q_proj"], init_lora_weights="pissa")
    require_right(tmp_path, truth)


def test_tied_singular_values_at_the_cut_are_told(tmp_path):
    model = net(1)
    with torch.no_grad():
        model.layers[0].q_proj.weight.copy_(torch.eye(16))
    made(tmp_path, model, init_lora_weights="pissa")
    with open_pairs(tmp_path / "base", tmp_path / "adapter") as pairs:
        notes = {pair.key: " ".join(pair.notes) for pair in pairs}
    assert "singular values 4 and 5 of the base are one to float32" in notes["layers.0.q_proj.weight"]
    assert "are one to float32" not in notes["layers.0.up_proj.weight"]


def test_what_a_half_precision_base_rounds_is_told(tmp_path):
    truth = made(tmp_path, net(1, torch.bfloat16), init_lora_weights="pissa")
    found, _ = require_right(tmp_path, truth, atol=2e-2)
    assert all(any("without the rounding to bfloat16" in note for note in pair.notes) for pair in found.values())


def test_a_base_that_is_not_finite_is_a_row_and_no_crash(tmp_path):
    made(tmp_path, net(1), init_lora_weights="pissa")
    state = load_file(tmp_path / "base" / "model.safetensors")
    state["layers.0.q_proj.weight"][0, 0] = math.nan
    save_file(state, tmp_path / "base" / "model.safetensors")
    report = spectra.diagnose(tmp_path / "base", tmp_path / "adapter")
    assert {row.key: row.status for row in report.rows}["layers.0.q_proj.weight"] == "nonfinite"
    assert sum(row.ok for row in report.rows) == 2


def test_no_alpha_pattern_is_offered_for_what_alpha_does_not_scale(tmp_path):
    made(tmp_path, net(1), init_lora_weights="pissa", lora_alpha=60)
    swept = spectra.sweep(tmp_path / "base", tmp_path / "adapter", scales=[0, 1, 40], k=2)
    if all(row.budget is None or row.budget >= 1 for row in swept.rows):
        pytest.skip("nothing to lower")
    with pytest.raises(UsageError, match="scales with alpha"):
        swept.alpha_pattern()


# --- KaSA, QA-LoRA, BD-LoRA, merged linear -------------------------------------------------------------------------


def test_kasa_drops_a_part_of_the_base(tmp_path):
    found, pairs = require_right(tmp_path, made(tmp_path, net(), kasa_config={}))
    assert pairs.info.method == "KaSA"
    assert all(any(note.startswith("KaSA: ") for note in pair.notes) for pair in found.values())
    with open_pairs(tmp_path / "base", tmp_path / "adapter", as_stored=True) as pairs:
        assert pairs.info.method == "KaSA (as stored)"
        stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
        for pair in pairs:
            name = f"base_model.model.{pair.key.removesuffix('.weight')}"
            B, A, diagonal = (stored[f"{name}.{part}"] for part in ("lora_B.weight", "lora_A.weight", "lora_diag"))
            torch.testing.assert_close(pair.update.dense(), 1.5 * B @ torch.diag(diagonal) @ A)


BLOCKS = {
    "B": {"target_modules_bd_b": ["q_proj", "up_proj", "down_proj"], "nblocks": 2},
    "A": {"target_modules_bd_a": list(NAMES), "nblocks": 4},
    "both kinds": {"target_modules_bd_a": ["down"], "target_modules_bd_b": ["layers.1.up", "q"], "nblocks": 2},
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_bd_lora_stores_a_factor_in_blocks(tmp_path, kind):
    options = BLOCKS[kind] | {"match_strict": False}
    _, pairs = require_right(tmp_path, made(tmp_path, net(), use_bdlora=options))
    assert pairs.info.method == "BD-LoRA"


@pytest.mark.parametrize(("group", "rank"), [(2, 3), (4, 4), (8, 1)])
def test_qa_lora_pools_its_inputs(tmp_path, group, rank):
    truth = made(tmp_path, net(1), r=rank)
    generator = torch.Generator().manual_seed(4)
    stored, expected = {}, {}
    for key, value in truth.items():
        if "proj" not in key:
            continue
        out, inputs = value.shape
        A, B = torch.randn(rank, inputs // group, generator=generator), torch.randn(out, rank, generator=generator)
        name = f"base_model.model.{key.removesuffix('.weight')}"
        stored |= {f"{name}.lora_A.weight": A, f"{name}.lora_B.weight": B}
        # What the layer does to each unit vector, as its forward pass does it: average each group, times their number.
        unit = torch.eye(inputs).view(inputs, inputs // group, group).mean(dim=2) * (inputs // group)
        expected[key] = ((unit @ A.T @ B.T).T * 6 / rank).double()
    save_file(stored, tmp_path / "adapter" / "adapter_model.safetensors")
    reconfigured(tmp_path, use_qalora=True, qalora_group_size=group)
    _, pairs = require_right(tmp_path, expected)
    assert pairs.info.method == "QA-LoRA"


def test_qa_lora_on_another_base_is_refused(tmp_path):
    made(tmp_path, net(1))
    reconfigured(tmp_path, use_qalora=True, qalora_group_size=4)
    stored = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    cut = {key: value[:, :3].contiguous() if "lora_A" in key else value for key, value in stored.items()}
    save_file(cut, tmp_path / "adapter" / "adapter_model.safetensors")
    with (
        open_pairs(tmp_path / "base", tmp_path / "adapter") as pairs,
        pytest.raises(MatchError, match="in groups of 4"),
    ):
        list(pairs)


@pytest.mark.parametrize("enabled", [[True, False, True], [False, True], [True, True, True]])
@pytest.mark.parametrize("conv1d", [False, True])
def test_the_merged_linear_of_peft_0_2(tmp_path, enabled, conv1d):
    generator, groups, r, out, inputs = torch.Generator().manual_seed(3), sum(enabled), 3, 24, 10
    weight = torch.randn(out, inputs, generator=generator)
    name = "transformer.h.0.attn.c_attn" if conv1d else "attention.query_key_value"
    (tmp_path / "base").mkdir()
    (tmp_path / "adapter").mkdir()
    save_file({f"{name}.weight": weight.T.contiguous() if conv1d else weight}, tmp_path / "base" / "model.safetensors")
    kind = "gpt2" if conv1d else "bloom"
    (tmp_path / "base" / "config.json").write_text(json.dumps({"model_type": kind}))
    A = torch.randn(r * groups, inputs, generator=generator)
    B = torch.randn(out // len(enabled) * groups, r, 1, generator=generator)
    torch.save(
        {f"base_model.model.{name}.lora_A.weight": A, f"base_model.model.{name}.lora_B.weight": B},
        tmp_path / "adapter" / "adapter_model.bin",
    )
    config = {"peft_type": "LORA", "r": r, "lora_alpha": 12, "enable_lora": enabled, "fan_in_fan_out": True}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    product = torch.nn.functional.conv1d(A[None], B, groups=groups)[0] * 4
    truth = torch.zeros(len(enabled), out // len(enabled), inputs)
    truth[torch.tensor(enabled)] = product.reshape(groups, -1, inputs)
    truth = truth.reshape(out, inputs).double()
    require_right(tmp_path, {f"{name}.weight": truth.T if conv1d else truth})


# --- layer_replication ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranges", [[[0, 3]], [[0, 2], [1, 3]], [[2, 3], [0, 1], [0, 1], [0, 0]]])
def test_replicated_layers_have_updates_of_their_own(tmp_path, ranges):
    peft = pytest.importorskip("peft")
    base = saved(net(), tmp_path / "base")
    wrapped = moved(
        peft.get_peft_model(net(), peft.LoraConfig(target_modules=["q_proj", "up_proj"], layer_replication=ranges))
    )
    wrapped.save_pretrained(tmp_path / "adapter")
    truth = {
        f"{name.removeprefix('base_model.model.')}.weight": module.get_delta_weight("default").detach()
        for name, module in wrapped.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    of = [number for begin, end in ranges for number in range(begin, end)]
    with open_pairs(tmp_path / "base", tmp_path / "adapter") as pairs:
        found = {pair.key: pair for pair in pairs}
        assert list(pairs.base.tensors)[-1].startswith(f"layers.{len(of) - 1}.")
        assert "layer_replication" in " ".join(pairs.notes)
        origin = layers_of(pairs.base)
    assert found.keys() == truth.keys()
    for key, pair in found.items():
        torch.testing.assert_close(pair.update.dense(), truth[key])
        layer = of[int(key.split(".")[1])]
        stored = f"layers.{layer}.{key.split('.', 2)[2]}"
        assert origin[key] == stored
        assert torch.equal(pair.base, base[stored])
        assert any(stored in note for note in pair.notes) == (stored != key)
    report = spectra.diagnose(tmp_path / "base", tmp_path / "adapter")
    assert [row.key for row in report.rows] == list(found)
    assert spectra.sweep(tmp_path / "base", tmp_path / "adapter", scales=[1]).alpha_pattern().keys() == {
        "^" + key.removesuffix(".weight").replace(".", r"\.") for key in truth
    }


@pytest.mark.parametrize(
    "ranges", [[[0, 4]], [[0, 1], [2, 30]], [[-1, 2]], [[1]], {"a": 1}, [["0", "1"]], [[3, 10**9]]]
)
def test_ranges_that_are_none_of_the_base_s_layers_are_refused(tmp_path, ranges):
    made(tmp_path, net())
    reconfigured(tmp_path, layer_replication=ranges)
    with pytest.raises((MatchError, FormatError), match="layer_replication"):
        open_pairs(tmp_path / "base", tmp_path / "adapter")


def test_a_grown_model_is_not_compared_with_one_that_is_not(tmp_path):
    peft = pytest.importorskip("peft")
    made(tmp_path, net())
    wrapped = peft.get_peft_model(net(), peft.LoraConfig(target_modules=["q_proj"], layer_replication=[[0, 2], [0, 3]]))
    moved(wrapped).save_pretrained(tmp_path / "grown")
    with pytest.raises(UsageError, match="different layers under one name"):
        spectra.compare(tmp_path / "base", {"plain": tmp_path / "adapter", "grown": tmp_path / "grown"})


# --- the command line ----------------------------------------------------------------------------------------------


def run(*words):
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_the_options_reach_every_command(tmp_path):
    made(tmp_path, net(1), init_lora_weights="pissa_niter_8")
    base, adapter, initial = tmp_path / "base", tmp_path / "adapter", tmp_path / "initial"
    for command in ("diagnose", "sweep"):
        refused = run(command, base, adapter)
        assert isinstance(refused.exception, UnsupportedError)
        assert run(command, base, adapter, "--initial", initial).exit_code == 0
        told = run(command, base, adapter, "--as-stored", "--json", "-")
        assert "PiSSA (as stored)" in told.stdout
    assert run("compare", base, "--lora", f"a={adapter}", "--initial", f"a={initial}").exit_code == 0
    assert run("compare", base, "--lora", f"a={adapter}", "--as-stored").exit_code == 0
    assert isinstance(run("compare", base, "--lora", f"a={adapter}", "--initial", f"b={initial}").exception, InputError)


def test_names_and_alpha_are_checked(tmp_path):
    made(tmp_path, net(1))
    base, adapter, names = tmp_path / "base", tmp_path / "adapter", tmp_path / "names.json"
    names.write_text('{"a": 1}')
    assert isinstance(run("diagnose", base, adapter, "--names", names).exception, UsageError)
    names.write_text("[1]")
    assert isinstance(run("diagnose", base, adapter, "--names", names).exception, FormatError)
    names.write_text("{}")
    assert run("diagnose", base, adapter, "--names", names).exit_code == 0
    with pytest.raises(UsageError, match="finite"):
        open_pairs(base, adapter, alpha=math.nan)
