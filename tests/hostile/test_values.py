"""Numbers that cannot be measured: one row says so, and the others are as they would have been."""

import math

import pytest
import torch

from spectra.errors import InputError, MatchError


def same(row, other):
    return all(row[name] == other[name] for name in ("key", "status", "rank", "norm", "intruders", "spectrum"))


def bad(report):
    """The one row that could not be measured."""
    (row,) = [row for row in report.rows if row.status == "nonfinite"]
    return row


@pytest.fixture
def tuned(craft):
    """The base of `base`, moved a little in every matrix."""
    moved = craft.weights(seed=1)
    return {name: weight + 0.05 * moved[name] for name, weight in craft.weights(seed=0).items()}


POISON = {"NaN": math.nan, "infinity": math.inf, "minus infinity": -math.inf}


@pytest.mark.parametrize("side", ["base", "tuned"])
@pytest.mark.parametrize("poison", POISON.values(), ids=POISON)
def test_one_bad_number_spoils_one_row_and_no_other(tmp_path, craft, diagnose, tuned, side, poison):
    base = craft.weights(seed=0)
    clean = diagnose(craft.model(tmp_path / "b", base), craft.model(tmp_path / "t", tuned))
    {"base": base, "tuned": tuned}[side][craft.names[5]][3, 2] = poison
    spoilt = diagnose(craft.model(tmp_path / "b", base), craft.model(tmp_path / "t", tuned))
    assert {row.status for row in clean.rows} == {"ok"}
    assert {row.key: row.reason for row in spoilt.rows if row.status == "nonfinite"}.keys() == {craft.names[5]}
    assert "1 value that is NaN or infinite, first at [3, 2]" in bad(spoilt).reason
    assert sum(same(row, other) for row, other in zip(clean.rows, spoilt.rows, strict=True) if other.ok) == 11
    assert spoilt.failed == 1
    assert any(finding.code == "SP102" for finding in spoilt.findings)


@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
def test_a_bad_number_in_a_factor_spoils_that_module_only(tmp_path, base, craft, diagnose, factor):
    factors = craft.factors(craft.modules[:3])
    factors[f"{craft.modules[1]}.{factor}.weight"][2, 1] = math.nan
    report = diagnose(base, craft.adapter(tmp_path / "a", factors))
    assert sorted(row.status for row in report.rows) == ["nonfinite", "ok", "ok"]
    assert bad(report).key == craft.names[1]
    assert f"the factor {factor[-1]} holds 1 value that is NaN or infinite, first at [2, 1]" in bad(report).reason


def test_a_product_beyond_float32_is_a_row_not_a_crash(tmp_path, base, craft, diagnose):
    factors = {name: 1e25 * tensor for name, tensor in craft.factors(craft.modules[:2]).items()}
    report = diagnose(base, craft.adapter(tmp_path / "a", factors))
    assert [row.status for row in report.rows] == ["nonfinite"] * 2


def test_a_bad_magnitude_of_dora_spoils_that_module_only(tmp_path, base, craft, diagnose):
    factors = craft.factors(craft.modules[:2])
    for module in craft.modules[:2]:
        factors[f"{module}.lora_magnitude_vector"] = torch.ones(16)
    factors[f"{craft.modules[0]}.lora_magnitude_vector"][4] = math.nan
    report = diagnose(base, craft.adapter(tmp_path / "a", factors, use_dora=True))
    assert sorted(row.status for row in report.rows) == ["nonfinite", "ok"]
    assert bad(report).key == craft.names[0]


@pytest.mark.parametrize("shape", [(15,), (17, 1), (0,), (4, 4, 2)])
def test_a_magnitude_of_dora_that_does_not_fit_is_refused(tmp_path, base, craft, refused, pairs, shape):
    factors = craft.factors(craft.modules[:1])
    factors[f"{craft.modules[0]}.lora_magnitude_vector"] = torch.ones(shape)
    adapter = craft.adapter(tmp_path / "a", factors, use_dora=True)
    refused(lambda: pairs(base, adapter), str(list(shape)), "16 values", kind=MatchError)


def test_factors_of_rank_zero_are_a_zero_update(tmp_path, craft, diagnose):
    base = craft.model(tmp_path / "b", {"conv.weight": torch.randn(8, 2, 3, 3)})
    factors = {"conv.lora_A.weight": torch.ones(0, 2, 3, 3), "conv.lora_B.weight": torch.ones(8, 0, 1, 1)}
    (row,) = diagnose(base, craft.adapter(tmp_path / "a", factors)).rows
    assert row.status == "zero_update"


@pytest.mark.parametrize(("B", "A"), [((8, 0, 1, 1), (4, 2, 3, 3)), ((8,), (4, 2)), ((8, 3, 1, 1), (4, 2, 3, 3))])
def test_kernels_that_disagree_on_the_rank_are_refused(tmp_path, craft, refused, pairs, B, A):
    base = craft.model(tmp_path / "b", {"conv.weight": torch.randn(8, 2, 3, 3)})
    factors = {"conv.lora_A.weight": torch.ones(A), "conv.lora_B.weight": torch.ones(B)}
    adapter = craft.adapter(tmp_path / "a", factors)
    refused(lambda: pairs(base, adapter), str(list(B)), str(list(A)), kind=MatchError)


def test_identical_models_have_zero_updates_and_no_intruder(base, diagnose):
    report = diagnose(base, base)
    assert [row.status for row in report.rows] == ["zero_update"] * 12
    assert report.summary["intruders"] == 0
    assert report.failed == 0
    assert [(finding.code, finding.severity) for finding in report.findings] == [("SP101", "error")]
    assert all(row.norm.ratio == 0 and row.rank.numerical == 0 for row in report.rows)
    report.to_json()
    report.to_csv()


def test_an_adapter_that_was_never_trained_says_so(tmp_path, base, craft, diagnose):
    factors = craft.factors(craft.modules)
    untrained = {name: tensor * (0 if "lora_B" in name else 1) for name, tensor in factors.items()}
    report = diagnose(base, craft.adapter(tmp_path / "a", untrained))
    assert [row.status for row in report.rows] == ["zero_update"] * 12
    assert "B is still zero" in report.findings[0].message


def test_zero_base_matrices_are_measured_without_a_division_by_zero(tmp_path, craft, diagnose, tuned):
    base = {name: torch.zeros(16, 16) for name in craft.names}
    report = diagnose(craft.model(tmp_path / "b", base), craft.model(tmp_path / "t", tuned))
    assert report.failed == 0
    report.to_json()


def test_empty_matrices_are_rows_or_skipped_and_break_nothing(tmp_path, craft, diagnose, tuned):
    base = {**craft.weights(seed=0), "empty.weight": torch.zeros(0, 5), "thin.weight": torch.zeros(5, 0)}
    tuned |= {"empty.weight": torch.zeros(0, 5), "thin.weight": torch.zeros(5, 0)}
    report = diagnose(craft.model(tmp_path / "b", base), craft.model(tmp_path / "t", tuned))
    assert report.failed == 0
    report.to_json()


@pytest.mark.parametrize("rank", [1, 2, 16, 40])
def test_the_numerical_rank_is_that_of_the_matrices_whatever_r_is(tmp_path, base, craft, diagnose, rank):
    factors = craft.factors(craft.modules[:1], rank=rank)
    (row,) = diagnose(base, craft.adapter(tmp_path / "a", factors, r=rank)).rows
    assert row.rank.numerical == min(rank, 16)
    assert row.rank.allotted == rank


@pytest.mark.parametrize("claimed", [1, 10**6])
def test_a_rank_the_tensors_do_not_have_is_said_in_the_row(tmp_path, base, craft, diagnose, claimed):
    adapter = craft.adapter(tmp_path / "a", craft.factors(craft.modules[:1], rank=4), r=claimed)
    (row,) = diagnose(base, adapter).rows
    assert row.rank.numerical == 4
    assert row.rank.allotted == 4
    assert f"stored rank 4, but the configuration says {claimed}; the scaling uses that" in row.notes


def test_factors_that_disagree_on_the_rank_are_refused(tmp_path, base, craft, refused, pairs):
    factors = craft.factors(craft.modules[:1])
    factors[f"{craft.modules[0]}.lora_B.weight"] = torch.ones(16, 5)
    adapter = craft.adapter(tmp_path / "a", factors)
    refused(lambda: pairs(base, adapter), "[16, 5]", "[4, 16]", kind=MatchError)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.bool, torch.complex64, torch.int64])
def test_factors_that_are_no_floats_are_refused(tmp_path, base, craft, refused, pairs, dtype):
    factors = {name: tensor.to(dtype) for name, tensor in craft.factors(craft.modules[:1]).items()}
    adapter = craft.adapter(tmp_path / "a", factors)
    refused(lambda: pairs(base, adapter), str(dtype).removeprefix("torch."), kind=InputError)


STATE_DICTS = {
    "a number for a tensor": ({"w.weight": 3}, "not a tensor"),
    "a key that is a number": ({3: torch.eye(4)}, "no text"),
    "a meta tensor": ({"w.weight": torch.eye(4, device="meta")}, "meta device"),
    "a sparse tensor": ({"w.weight": torch.eye(4).to_sparse()}, "to_dense()"),
    "nothing": ({}, ""),
}


@pytest.mark.parametrize(("state", "fragment"), STATE_DICTS.values(), ids=STATE_DICTS)
def test_a_state_dict_of_something_else_is_refused(refused, pairs, state, fragment):
    good = {"w.weight": torch.eye(4)}
    refused(lambda: pairs(state, good), fragment, lines=3)
    refused(lambda: pairs(good, state), fragment, lines=3)


@pytest.mark.parametrize("given", [3, None, [], b"path", object()], ids=lambda given: type(given).__name__)
def test_what_is_no_model_at_all_is_refused(base, refused, pairs, given):
    refused(lambda: pairs(base, given), "neither a path")
    refused(lambda: pairs(given, base), "neither a path")
