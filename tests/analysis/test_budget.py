"""The alpha_pattern of a budget is read by PEFT itself, and leaves no intruder where there was one."""

import json
import os
import re

import pytest
import torch
from torch import nn

from spectra import testing
from spectra.analysis.budget import alpha_pattern
from spectra.analysis.diagnosis import diagnose
from spectra.analysis.sweep import sweep
from spectra.errors import UsageError
from spectra.loaders.adapters.config import matching
from spectra.metrics.phase import PhaseCurve

os.environ.setdefault("HF_HUB_OFFLINE", "1")
SCALES = (0, 0.2, 0.4, 0.6, 0.8, 1, 1.5, 2)


def row(key, bracket, kind="low rank"):
    return PhaseCurve(key, key, None, (9, 9), "ok", "", "basis", kind, (0.0, 1.0, 2.0), bracket=bracket)


class Block(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.q_proj = nn.Linear(size, size, bias=False)
        self.v_proj = nn.Linear(size, size + 8, bias=False)


class Net(nn.Module):
    """Two blocks beside one of the same name deeper down, so that a loose pattern would take both."""

    def __init__(self, size=72):
        super().__init__()
        self.layers = nn.ModuleList([Block(size), Block(size)])
        self.inner = nn.Module()
        self.inner.layers = nn.ModuleList([Block(size)])
        for at, weight in enumerate(self.parameters()):
            weight.data = testing.decaying(*weight.shape, seed=at).float()


@pytest.fixture(scope="module", params=[False, True], ids=["lora", "rslora"])
def trained(request, tmp_path_factory):
    """A base on disk and an adapter of it saved by PEFT, with alphas of its own and strong random factors."""
    peft = pytest.importorskip("peft")
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    base = Net()
    testing.save_checkpoint(folder / "base", dict(base.state_dict()), config={})
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], use_rslora=request.param,
        alpha_pattern={"layers.1.v_proj": 6}, rank_pattern={"inner.layers.0.q_proj": 2},
    )  # fmt: skip
    model = peft.get_peft_model(base, config)
    for name, weight in model.named_parameters():
        if "lora_" in name:
            weight.data = 0.11 * torch.randn(weight.shape)
    model.save_pretrained(folder / "adapter")
    return folder


def with_pattern(folder, pattern):
    document = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    (folder / "lowered").mkdir(exist_ok=True)
    (folder / "lowered" / "adapter_config.json").write_text(json.dumps(document | {"alpha_pattern": pattern}))
    weights = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    (folder / "lowered" / "adapter_model.safetensors").write_bytes(weights)
    return folder / "lowered"


def deltas(folder, base):
    import peft

    model = peft.PeftModel.from_pretrained(base, folder)
    return {
        name.removeprefix("base_model.model."): module.get_delta_weight("default").detach()
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }


def test_peft_scales_each_delta_by_its_budget_and_no_intruder_is_left(trained):
    found = sweep(trained / "base", trained / "adapter", scales=SCALES)
    early = [row for row in found.rows if row.critical is not None and row.critical <= 1]
    assert len(early) >= 2
    assert len({row.budget for row in early}) == len(early)
    lowered = with_pattern(trained, found.alpha_pattern())
    before, after = deltas(trained / "adapter", Net()), deltas(lowered, Net())
    assert len(before) == len(found.rows) == 6
    for row in found.rows:
        module = row.key.removesuffix(".weight")
        torch.testing.assert_close(after[module], min(1.0, row.budget) * before[module], rtol=1e-5, atol=1e-7)
    report = diagnose(trained / "base", lowered)
    assert [layer.intruders[0].rotated + layer.intruders[0].new for layer in report.rows] == [0] * 6
    kept = diagnose(trained / "base", trained / "adapter")
    assert all(layer.found for layer in kept.rows if layer.key in {row.key for row in early})


def test_what_was_lowered_has_no_intruder_for_another_search_either(trained):
    """The first crossings of the lowered adapter all lie above scale 1, on other scales than it was lowered by."""
    found = sweep(trained / "base", trained / "adapter", scales=[0, 1])
    assert found.summary["crossed_as_trained"] >= 2
    again = sweep(trained / "base", with_pattern(trained, found.alpha_pattern()), scales=[0, 0.37, 0.91, 1])
    assert again.summary["crossed_as_trained"] == 0
    assert all(row.bracket is None or row.bracket[0] >= 1 for row in again.rows)


def test_alphas_are_short_decimals_and_never_rounded_up():
    rows, alphas = [row("a", (0.552343, 0.5524))], {"a": {"m": 4.0}}
    assert 4.0 * 0.1 * 3 != 1.2  # what products of floats look like
    assert alpha_pattern(rows, alphas) == {"^m": 2.209372}
    assert alpha_pattern([row("a", (0.3, 0.4))], {"a": {"m": 0.1 * 3}}) == {"^m": 0.09}
    assert alpha_pattern(rows, {"a": {"m": -4.0}}, margin=0.333333333) == {"^m": -1.47291466}
    assert alpha_pattern([row("a", None)], {"a": {"m": 1 / 3}}) == {"^m": 1 / 3}


def test_a_margin_stays_below_the_budget(trained):
    found = sweep(trained / "base", trained / "adapter", scales=SCALES)
    whole, less = found.alpha_pattern(), found.alpha_pattern(margin=0.1)
    assert whole.keys() == less.keys()
    for row in found.rows:
        pattern = "^" + re.escape(row.key.removesuffix(".weight"))
        alpha = found.alphas[row.key][row.key.removesuffix(".weight")]
        assert less[pattern] == pytest.approx(alpha * min(1, 0.9 * row.budget))


def test_every_adapted_module_is_in_the_pattern_also_one_left_out(trained):
    found = sweep(trained / "base", trained / "adapter", scales=SCALES, include=["layers.1.q_proj"])
    assert len(found.rows) == 1
    pattern = found.alpha_pattern()
    assert len(pattern) == 6
    assert pattern[r"^layers\.1\.v_proj"] == 6
    assert pattern[r"^inner\.layers\.0\.v_proj"] == 8


@pytest.mark.parametrize("name", ["layers.0.q_proj", "a+b.(c)", "x.layers.0.q_proj", "w[0].q"])
def test_a_pattern_matches_its_module_alone(name):
    (pattern,) = alpha_pattern([row("w", (0.4, 0.5))], {"w": {name: 16.0}})
    assert matching({pattern: 1}, name) == [pattern]
    for other in (f"model.{name}", f"{name}.more", name.replace(".", "_"), "q_proj"):
        assert matching({pattern: 1}, other) == []


def test_nothing_is_scaled_up_and_modules_that_share_an_alpha_take_the_lower():
    rows = [row("a", (0.5, 0.6)), row("b", (0.25, 0.3)), row("c", (1.5, 1.6)), row("d", None)]
    alphas = {"a": {"attn": 8.0}, "b": {"attn": 8.0}, "c": {"up": 4.0}, "d": {"down": 3.0}}
    assert alpha_pattern(rows, alphas) == {"^attn": 2.0, "^up": 4.0, "^down": 3.0}
    negative = alpha_pattern(rows, {"a": {"attn": -8.0}, "c": {"up": -4.0}})
    assert negative == {"^attn": -4.0, "^up": -4.0}


@pytest.mark.parametrize("margin", [-0.1, 1.0, 2.0])
def test_a_margin_out_of_range_is_refused(margin):
    with pytest.raises(UsageError, match="a share of the budget lies from 0 to below 1"):
        alpha_pattern([row("a", None)], {"a": {"m": 1.0}}, margin=margin)


def test_a_model_without_an_alpha_is_refused():
    with pytest.raises(UsageError, match="there is no alpha to write"):
        alpha_pattern([row("a", (0.5, 0.6), "dense")], {})


def test_magnitudes_do_not_scale_with_alpha():
    rows, alphas = [row("a", (0.5, 0.6), "rescaled")], {"a": {"m": 1.0}}
    with pytest.raises(UsageError, match="'a' is rescaled"):
        alpha_pattern(rows, alphas)
    assert alpha_pattern([row("a", None, "rescaled")], alphas) == {"^m": 1.0}
