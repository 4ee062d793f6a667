"""The phase curve agrees with a diagnosis at scale 1, with nothing at 0, and with PEFT about what an alpha does."""

import functools
import json
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import spectra
from spectra import testing
from spectra.analysis import sweep as module
from spectra.analysis.agreement import agreement
from spectra.analysis.diagnosis import diagnose
from spectra.analysis.settings import Settings
from spectra.analysis.sweep import KINDS, follow, require_scales, sweep
from spectra.errors import FormatError, UsageError
from spectra.loaders.pairing import Pairs, open_pairs
from spectra.metrics.crossing import Search
from spectra.metrics.phase import PhaseCurve, SideCurve
from spectra.metrics.threshold import Threshold

LAYER = {
    "key", "name", "index", "stack", "block", "module", "shape", "status", "reason", "method", "update", "critical",
    "bracket", "resolution", "budget", "intervals", "law", "law_over_exact", "curves", "notes",
}  # fmt: skip
DEMO = Path(spectra.__file__).parent / "demo"
FEW = (0, 0.25, 0.5, 0.75, 1, 1.5, 2)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A base of matrices large enough for the basis path, with an adapter that intrudes, and a model to load it."""
    folder = tmp_path_factory.mktemp("large")
    base = testing.llama(seed=5, blocks=2, width=96, vocabulary=64)
    testing.save_checkpoint(folder / "base", base)
    testing.save_lora(
        folder / "lora", testing.lora(base, ("q_proj", "down_proj"), strength=1.0, rank=3, seed=6), alpha=6
    )
    return folder


@pytest.fixture(scope="module")
def swept(large):
    return sweep(large / "base", large / "lora")


def at_one(row):
    place = row.scales.index(1.0)
    return [tuple(getattr(side, kind)[place] for kind in KINDS) for side in row.sides]


# --- agreement with a diagnosis


@pytest.mark.parametrize("model", ["lora", "full", "other"])
@pytest.mark.parametrize("side", ["left", "both"])
def test_scale_one_is_the_diagnosis(folders, model, side):
    asked = Settings(side=side, k=5)
    found, known = (run(folders / "base", folders / model, settings=asked) for run in (
        lambda *given, **more: sweep(*given, scales=FEW, **more), diagnose))  # fmt: skip
    assert [row.key for row in found.rows] == [row.key for row in known.rows]
    for row, layer in zip(found.rows, known.rows, strict=True):
        assert row.status == layer.status
        assert at_one(row) == [tuple(getattr(one, kind) for kind in KINDS) for one in layer.intruders]
        assert row.real[0] == 0


def test_scale_one_is_the_diagnosis_on_the_basis_path(large, swept):
    known = diagnose(large / "base", large / "lora", settings=Settings(method="exact"))
    assert {row.method for row in swept.rows} == {"basis"}
    for row, layer in zip(swept.rows, known.rows, strict=True):
        assert at_one(row) == [tuple(getattr(one, kind) for kind in KINDS) for one in layer.intruders]
        place = row.scales.index(1.0)
        assert row.sides[0].similarity[place] == pytest.approx(layer.intruders[0].similarity, abs=2e-3)
    assert swept.total("count")[swept.scales.index(1.0)] == known.summary["intruders"] > 0


@settings(max_examples=15)
@given(
    seed=st.integers(0, 1000), m=st.integers(1, 90), n=st.integers(1, 90), rank=st.integers(1, 6),
    strength=st.floats(0.01, 3), epsilon=st.floats(0.2, 1), ties=st.booleans(),
)  # fmt: skip
def test_property_one_is_the_diagnosis_and_zero_is_nothing(seed, m, n, rank, strength, epsilon, ties):
    p = min(m, n)
    base = testing.tied(m, n, p // 2, seed=seed) if ties else testing.decaying(m, n, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    dW = torch.randn(m, rank, generator=generator) @ torch.randn(rank, n, generator=generator)
    tuned = base.float() + strength * dW / torch.linalg.matrix_norm(dW, 2)
    asked = Settings(k=4, epsilon=epsilon)
    given_ = {"w.weight": base.float()}, {"w.weight": tuned}
    (row,), (layer,) = sweep(*given_, scales=(0, 0.5, 1), settings=asked).rows, diagnose(*given_, settings=asked).rows
    assert row.real[0] == row.total("count")[0] == 0
    assert at_one(row) == [tuple(getattr(one, kind) for kind in KINDS) for one in layer.intruders]


# --- critical scales


def test_a_critical_scale_is_bracketed_by_full_decompositions(large, swept):
    """Just below the bracket no direction is rotated or new, at its upper end one is."""
    from safetensors.torch import load_file

    base = load_file(large / "base" / "model.safetensors")
    (row,) = [row for row in swept.rows if row.key.endswith("layers.1.self_attn.q_proj.weight")]
    low, high = row.bracket
    assert 0 < high - low <= 1e-4 * high
    factors = load_file(large / "lora" / "adapter_model.safetensors")
    name = f"base_model.model.{row.key.removesuffix('.weight')}.lora_"
    dW = 2.0 * factors[f"{name}B.weight"] @ factors[f"{name}A.weight"]
    for scale, there in ((low, False), (high, True)):
        model = {row.key: base[row.key] + scale * dW}
        (layer,) = diagnose({row.key: base[row.key]}, model, settings=Settings(method="exact")).rows
        assert bool(layer.intruders[0].rotated + layer.intruders[0].new) is there


def test_a_planted_direction_crosses_where_it_passes_epsilon():
    """Base diag(8 .. 1), dW = 9 e e^T in the even direction e: the full decomposition along a fine line says where."""
    base = torch.diag(torch.arange(8.0, 0, -1))
    dW = 9 * torch.full((8, 8), 1 / 8)
    found = sweep({"w.weight": base}, {"w.weight": base + dW}, settings=Settings(k=1), scales=(0, 1, 2, 4))
    fine = torch.arange(1, 4, 0.001)
    first = next(
        s for s in fine.tolist() if float(torch.linalg.svd(base.double() + s * dW.double())[0][:, 0].abs().max()) < 0.5
    )
    assert found.rows[0].critical == pytest.approx(first, abs=2e-3)


NARROW = "layers.3.mlp.up_proj"  # of the demo's LoRA at rank 2: intruders at 0.615 to 0.64 and not again until 0.738


@pytest.mark.parametrize("scales", [[0, 1], [step / 10 for step in range(11)], [step / 20 for step in range(41)]])
def test_a_stretch_between_the_scales_asked_for_is_found(scales):
    models = DEMO / "base", DEMO / "lora-r2"
    (row,) = sweep(*models, scales=scales, include=[NARROW]).rows
    low, high = row.bracket
    assert high == pytest.approx(0.6143, abs=2e-4)
    assert high - low <= 1e-4 * high
    assert row.resolution <= 1e-4
    assert row.intervals[0][0] == high
    with open_pairs(*models, include=[NARROW]) as pairs:
        pair = next(iter(pairs))
    told = [
        diagnose({"w": pair.base}, {"w": pair.base + scale * pair.update.dense()}, settings=Settings(method="exact"))
        for scale in (low, high, 0.626)
    ]
    assert [found.summary["new"] + found.summary["rotated"] > 0 for found in told] == [False, True, True]


def test_a_curve_alone_is_not_searched(large):
    with open_pairs(large / "base", large / "lora") as pairs:
        pair = next(iter(pairs))
    asked = require_scales(FEW)
    whole, alone = (follow(pair, asked, Settings(), search=search) for search in (True, False))
    assert alone.sides == whole.sides
    assert (alone.bracket, alone.intervals) == (None, ())
    assert whole.bracket is not None


def test_a_search_that_was_ended_says_so(monkeypatch):
    monkeypatch.setattr(module, "Search", functools.partial(Search, most=4))
    (row,) = sweep(DEMO / "base", DEMO / "lora-r2", scales=[0, 1], include=[NARROW]).rows
    assert "the search for its first intruder ended after" in row.notes[-1]
    assert row.resolution > 0.1


def test_ties_alone_do_not_cross():
    base = testing.tied(96, 96, 20, seed=0)
    tuned = base + testing.noise(96, 96, level=1e-5, seed=1)
    found = sweep({"w.weight": base.float()}, {"w.weight": tuned.float()}, scales=FEW)
    assert found.total("degenerate")[-1] > 0
    assert found.rows[0].critical is None


def test_a_crossing_among_ties_is_that_of_the_new_direction():
    """Degenerate directions are there at every scale; bisecting must not follow them down."""
    base = testing.tied(96, 96, 20, seed=0).float()
    plant = testing.plant_intruders(base.double(), 1, strength=2.0, seed=1).dense().float()
    noise = testing.noise(96, 96, level=1e-4, seed=2).float()
    (row,) = sweep({"w.weight": base}, {"w.weight": base + plant + noise}, scales=(0, 0.25, 1)).rows
    assert row.at(0.25, "degenerate") > 0
    assert row.at(0.25, "new") == 0
    low, high = row.bracket
    assert high - low <= 1e-4 * high
    assert low > 0.3
    told = [diagnose({"w.weight": base}, {"w.weight": base + s * (plant + noise)}).rows[0] for s in (low, high)]
    assert [bool(layer.intruders[0].new + layer.intruders[0].rotated) for layer in told] == [False, True]


# --- rows and their faults


def test_faults_are_rows_and_the_sweep_goes_on(base, tuned):
    spoilt = dict(tuned)
    keys = [key for key in base if base[key].ndim == 2][:3]
    spoilt[keys[0]] = torch.full_like(base[keys[0]], math.nan)
    spoilt[keys[1]] = base[keys[1]]
    zeroed = {**base, keys[2]: torch.zeros_like(base[keys[2]])}
    found = sweep(zeroed, spoilt, scales=FEW)
    status = {row.key: row.status for row in found.rows}
    assert [status[key] for key in keys] == ["nonfinite", "zero_update", "zero_base"]
    assert {status[key] for key in status if key not in keys} == {"ok"}
    assert found.failed == 1
    json.loads(found.to_json())


def test_json_has_exactly_the_promised_fields(swept, tmp_path):
    found = json.loads(swept.to_json(tmp_path / "sweep.json"))
    assert (tmp_path / "sweep.json").read_text() == swept.to_json()
    assert set(found) == {"schema", "provenance", "summary", "scales", "total", "skipped", "layers"}
    assert len(found["scales"]) == 41
    assert all(len(values) == 41 for values in found["total"].values())
    for layer in found["layers"]:
        assert set(layer) == LAYER
        assert len(layer["curves"]["left"]["similarity"]) == 41


def test_csv_and_pandas_have_one_line_a_matrix(swept, tmp_path):
    text = swept.to_csv(tmp_path / "sweep.csv")
    assert len(text.splitlines()) == 1 + len(swept.rows)
    frame = swept.to_pandas()
    assert list(frame["critical"].dropna()) == [row.critical for row in swept.rows if row.critical is not None]
    assert {"law.critical", "bracket", "budget", "count"} <= set(frame.columns)


def test_progress_names_each_matrix(large):
    told = []
    sweep(large / "base", large / "lora", scales=[1], progress=lambda *given: told.append(given))
    assert [done for done, _, _ in told] == [0, 1, 2, 3, 4]
    assert told[-1] == (4, 4, "")


# --- what is asked


def test_zero_and_one_are_always_among_the_scales():
    assert require_scales([0.5, 3]) == (0.0, 0.5, 1.0, 3.0)
    assert require_scales([2, 1.0, 2]) == (0.0, 1.0, 2.0)


@pytest.mark.parametrize("scale", [-0.1, math.nan, math.inf, "1", None, True])
def test_a_scale_that_is_none_is_refused(scale, base, tuned):
    with pytest.raises(UsageError, match="scales are finite numbers from 0"):
        sweep(base, tuned, scales=[0.5, scale])


def test_too_many_scales_are_refused(base, tuned):
    with pytest.raises(UsageError, match="1,201 scales are asked for: 1,000 are the most"):
        sweep(base, tuned, scales=[step / 1000 for step in range(1201)])


def test_the_certified_method_is_refused(base, tuned):
    with pytest.raises(UsageError, match="auto, basis or exact"):
        sweep(base, tuned, settings=Settings(method="certified"))


# --- what cannot be read


def _break(monkeypatch, keys):
    """Make some pairs unreadable, as a file that is cut while it is read."""
    plain = Pairs.pair

    def pair(self, key, index=None):
        if key in keys:
            raise FormatError(f"'{key}' cannot be read")
        return plain(self, key, index)

    monkeypatch.setattr(Pairs, "pair", pair)


def test_a_pair_that_cannot_be_read_is_a_row_and_the_others_are_as_ever(large, swept, monkeypatch):
    broken = swept.rows[1].key
    _break(monkeypatch, {broken})
    seen = []
    found = sweep(large / "base", large / "lora", progress=lambda done, total, name: seen.append((done, total)))
    assert (found.failed, found.summary["measured"]) == (1, len(swept.rows) - 1)
    for row, clean in zip(found.rows, swept.rows, strict=True):
        if row.key == broken:
            assert (row.status, row.reason) == ("failed", f"'{broken}' cannot be read")
            assert (row.shape, row.name, row.scales, row.critical) == (clean.shape, clean.name, clean.scales, None)
        else:
            assert row.to_dict() == clean.to_dict()
    assert seen == [(done, len(swept.rows)) for done in range(len(swept.rows) + 1)]
    assert len(found.alpha_pattern()) == len(swept.alpha_pattern())
    json.dumps(found.to_dict(), allow_nan=False)


def test_where_nothing_can_be_read_that_is_the_answer(large, swept, monkeypatch):
    _break(monkeypatch, {row.key for row in swept.rows})
    with pytest.raises(FormatError, match="cannot be read"):
        sweep(large / "base", large / "lora")


# --- the law


def curve(critical, law, at_one):
    """A matrix of which only its critical scale, its law and its count at scale 1 are known."""
    found = Threshold(10, 1.0, law, 0.0, 1.0)
    counts, none = (0, at_one, at_one), (0, 0, 0)
    side = SideCurve("left", counts, none, none, counts, ((0.5,),) * 3, ((1.0,),) * 3)
    known = {"status": "ok", "reason": "", "method": "basis", "update_kind": "dense", "scales": (0.0, 1.0, 2.0)}
    bracket = (critical / 2, critical) if critical else None
    return PhaseCurve("w", "w", None, (9, 9), **known, sides=(side,), bracket=bracket, law=found)


def test_the_law_is_judged_by_the_curves():
    rows = [curve(0.5, 0.6, 1), curve(0.5, 1.5, 1), curve(None, 1.8, 0), curve(1.5, 2.5, 0)]
    found = agreement(rows)
    assert (found.compared, found.within, found.missed, found.invented) == (3, 2, 1, 1)
    assert found.ratio == pytest.approx(2.5 / 1.5)
    assert found.share == pytest.approx(2 / 3)


def test_auc_is_the_chance_of_the_right_order():
    assert agreement([curve(0.5, 0.6, 1), curve(0.5, 1.9, 1), curve(None, 1.8, 0), curve(1.5, 2.5, 0)]).auc == 3 / 4
    assert agreement([curve(0.5, 0.6, 1), curve(None, 0.6, 0)]).auc == 1 / 2
    assert agreement([curve(0.5, 0.6, 1)]).auc is None
