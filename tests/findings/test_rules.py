"""Each finding speaks about a planted case, with its numbers, and is silent about a clean one."""

import pytest
import torch

from spectra import testing
from spectra.engine.choose import Request, decompose
from spectra.findings.almost_untrained import ALMOST_UNTRAINED
from spectra.findings.chance import CHANCE
from spectra.findings.failed import FAILED
from spectra.findings.finding import Evidence
from spectra.findings.intruders import INTRUDERS
from spectra.findings.rank import RANK_EXHAUSTED, RANK_UNUSED
from spectra.findings.rounding import LOST_IN_MERGE, RANK_IS_ROUNDING
from spectra.findings.rules import RULES, find
from spectra.findings.untrained import UNTRAINED
from spectra.findings.wrong_base import WRONG_BASE
from spectra.loaders.plan import TunedInfo
from spectra.metrics.layer import FAILED as COULD_NOT
from spectra.metrics.layer import NONFINITE, OOM, ZERO, measure, unmeasured
from spectra.updates import LowRank

SIZE = 96


def base(seed=0, size=SIZE):
    return testing.decaying(size, size, seed=seed).float()


def row(W0, update, *, key="model.layers.0.self_attn.q_proj.weight", dtype="float32", allotted=None, epsilon=0.5):
    """Measure one pair as the analysis does."""
    pair = testing.weight_pair(W0, update, key=key, dtype=dtype, allotted=allotted)
    return measure(pair, decompose(pair, Request(epsilon=epsilon)), epsilon=epsilon)


def adapter(W0, *, rank=4, strength=0.1, seed=1, **options):
    """The row of a LoRA whose singular values are alike, so that it uses its whole rank."""
    U, V = testing.orthogonal(len(W0), rank, seed=seed), testing.orthogonal(len(W0), rank, seed=seed + 1)
    scale = strength * torch.linalg.norm(W0.double()) / rank**0.5
    return row(W0, LowRank(U * scale, V.T), allotted=rank, **options)


def not_measured(status, key="w"):
    return unmeasured(testing.weight_pair(base(), torch.zeros(SIZE, SIZE), key=key, allotted=4), status, "the reason")


def evidence(*rows, method="LoRA", epsilon=0.5):
    return Evidence(rows, TunedInfo("tuned", method, 100, 400), "base", epsilon)


def said(rule, *rows, **options):
    """The one thing that a rule raises, or None."""
    raised = rule.check(evidence(*rows, **options))
    assert len(raised) <= 1
    return raised[0] if raised else None


def clean_adapter():
    return [adapter(base(seed), strength=0.05, rank=8, seed=3 * seed + 1) for seed in range(4)]


def clean_fine_tune():
    return [row(base(seed), testing.noise(SIZE, SIZE, level=0.02, seed=seed)) for seed in range(4)]


# --- all rules together


def test_a_clean_full_fine_tune_raises_nothing():
    assert find(evidence(*clean_fine_tune(), method="full fine-tuning")) == []


def test_a_clean_adapter_raises_no_warning():
    assert [finding for finding in find(evidence(*clean_adapter())) if finding.severity != "info"] == []


def test_no_rows_no_findings():
    assert find(evidence()) == []


def test_codes_and_names_are_unique_and_stable():
    assert [rule.code for rule in RULES] == [
        "SP101", "SP102", "SP103", "SP104", "SP201", "SP202", "SP301", "SP302", "SP303", "SP304",
    ]  # fmt: skip
    assert len({rule.name for rule in RULES}) == len(RULES)
    assert all(rule.source for rule in RULES)


def test_the_most_severe_come_first():
    rows = [not_measured(NONFINITE), adapter(base(), strength=1e-5), not_measured(ZERO)]
    found = find(evidence(*rows))
    assert [finding.severity for finding in found] == sorted(
        (finding.severity for finding in found), key=["error", "warning", "info"].index
    )
    assert [finding.code for finding in found] == ["SP102", "SP101", "SP104"]
    assert found[0].to_dict()["keys"] == ("w",)


# --- SP101 untrained


def test_an_adapter_whose_b_is_zero_everywhere_is_an_error():
    raised = said(UNTRAINED, not_measured(ZERO), not_measured(ZERO))
    assert raised.severity == "error"
    assert "B is still zero" in raised.message


def test_identical_checkpoints_are_an_error():
    assert "identical" in said(UNTRAINED, not_measured(ZERO), method="full fine-tuning").message


def test_a_frozen_matrix_of_a_full_fine_tune_is_a_remark():
    raised = said(UNTRAINED, not_measured(ZERO), *clean_fine_tune(), method="full fine-tuning")
    assert (raised.severity, raised.numbers) == ("info", {"zero_updates": 1, "matrices": 5})
    assert raised.message == "1 matrix of 5 did not change at all."


def test_an_adapted_matrix_that_did_not_change_is_a_warning():
    assert said(UNTRAINED, not_measured(ZERO), *clean_adapter()).severity == "warning"


def test_rows_that_changed_are_no_sp101():
    assert said(UNTRAINED, *clean_adapter()) is None


# --- SP102 not measured


@pytest.mark.parametrize("status", [NONFINITE, COULD_NOT, OOM])
def test_rows_that_failed_are_an_error(status):
    raised = said(FAILED, not_measured(status, "a"), not_measured(status, "b"), *clean_adapter())
    assert (raised.severity, raised.numbers) == ("error", {"status": status, "rows": 2})
    assert [layer.key for layer in raised.layers] == ["a", "b"]
    assert raised.message.startswith("2 matrices ")


def test_different_failures_are_told_apart():
    raised = FAILED.check(evidence(not_measured(NONFINITE), not_measured(COULD_NOT)))
    assert [found.message for found in raised] == [
        "1 matrix holds NaN or infinity.",
        "1 matrix could not be decomposed.",
    ]


def test_a_zero_update_is_no_failure():
    assert said(FAILED, not_measured(ZERO), *clean_adapter()) is None


# --- SP103 wrong base


def test_two_unrelated_models_do_not_look_like_base_and_fine_tune():
    rows = [row(base(seed), base(seed + 50) - base(seed)) for seed in range(3)]
    raised = said(WRONG_BASE, *rows, method="full fine-tuning")
    assert raised.severity == "warning"
    assert raised.numbers["median_ratio"] == pytest.approx(1.4, abs=0.1)
    assert "do not look like base and fine-tune" in raised.message


def test_an_adapter_larger_than_half_its_weight_is_asked_about_its_scale():
    raised = said(WRONG_BASE, *(adapter(base(seed), strength=0.8) for seed in range(3)))
    assert "for an adapter" in raised.message
    assert "alpha" in raised.advice


def test_one_large_update_among_many_is_no_wrong_base():
    assert said(WRONG_BASE, adapter(base(), strength=0.9), *clean_adapter()) is None


def test_matrices_that_are_equal_speak_for_the_base():
    """Half the model frozen, the rest trained far away: a hard fine-tune of this base, and of no other."""
    far = [row(base(seed), base(seed + 50) - base(seed)) for seed in range(3)]
    assert said(WRONG_BASE, *far, *[not_measured(ZERO)] * 3, method="full fine-tuning") is None
    raised = said(WRONG_BASE, *far, *[not_measured(ZERO)] * 2, method="full fine-tuning")
    assert (raised.numbers["judged"], raised.numbers["equal_share"]) == (5, 0.4)
    assert "40 % of 5 matrices are equal" in raised.message


def test_matrices_that_were_not_measured_say_nothing_of_the_base():
    far = [row(base(seed), base(seed + 50) - base(seed)) for seed in range(2)]
    assert said(WRONG_BASE, *far, *[not_measured(COULD_NOT)] * 5, method="full fine-tuning").numbers["judged"] == 2


# --- SP104 almost untrained


def test_an_adapter_of_a_few_steps_is_nearly_nothing_and_its_rank_says_nothing():
    """B near random has an effective rank near r: SP302 used to call that a rank used up."""
    rows = [adapter(base(seed), strength=1e-5, seed=seed + 5) for seed in range(3)]
    assert rows[0].rank.utilisation > 0.95
    raised = said(ALMOST_UNTRAINED, *rows)
    assert raised.severity == "warning"
    assert raised.message.startswith("The update is nearly nothing: ||dW|| is 1.0e-05 of ||W0|| (median of 3 matrices)")
    assert said(RANK_EXHAUSTED, *rows) is None
    assert said(RANK_UNUSED, *rows) is None


def test_a_small_full_fine_tune_is_a_remark():
    rows = [row(base(seed), testing.noise(SIZE, SIZE, level=1e-4, seed=seed)) for seed in range(3)]
    assert said(ALMOST_UNTRAINED, *rows, method="full fine-tuning").severity == "info"


def test_one_small_update_among_many_is_not_nearly_nothing():
    assert said(ALMOST_UNTRAINED, adapter(base(), strength=1e-5), *clean_adapter()) is None


def test_the_limit_is_a_thousandth():
    assert said(ALMOST_UNTRAINED, adapter(base(), strength=0.9e-3)) is not None
    assert said(ALMOST_UNTRAINED, adapter(base(), strength=1.1e-3)) is None


# --- SP201 intruders


def test_planted_intruders_are_counted_and_placed():
    planted = row(base(), testing.plant_intruders(base(), 4, seed=1), key="model.layers.7.mlp.down_proj.weight")
    raised = said(INTRUDERS, planted, *clean_fine_tune())
    assert raised.numbers == {"intruders": 4, "examined": 50, "new": 4, "share": pytest.approx(0.08)}
    assert raised.severity == "info"
    assert raised.message == (
        "4 intruders among 50 leading directions (8.0 %; 4 new, 0 rotated), in 1 of 5 matrices, all in mlp.down_proj."
    )


def test_a_fifth_of_all_directions_is_a_warning():
    assert said(INTRUDERS, row(base(), testing.plant_intruders(base(), 2, seed=1))).severity == "warning"


def test_where_they_sit_is_named_only_when_most_sit_there():
    def planted(count, module):
        return row(base(), testing.plant_intruders(base(), count, seed=1), key=f"h.0.{module}.weight")

    assert "mostly in b (3 of 4)" in said(INTRUDERS, planted(1, "a"), planted(3, "b")).message
    assert "spread over 2 kinds of module" in said(INTRUDERS, planted(2, "a"), planted(2, "b")).message


def test_ties_of_the_base_are_no_intruders_to_speak_of():
    tied = row(testing.tied(256, 256, 64, seed=1), testing.noise(256, 256, level=1e-6, seed=1))
    assert tied.found == 10
    assert said(INTRUDERS, tied) is None


@pytest.mark.parametrize(("method", "word"), [("LoRA", "rsLoRA"), ("full fine-tuning", "full fine-tuning")])
def test_advice_fits_the_method(method, word):
    rows = [row(base(), testing.plant_intruders(base(), 1, seed=1))]
    assert word in said(INTRUDERS, *rows, method=method).advice
    few = [*rows, *clean_fine_tune()]
    assert said(INTRUDERS, *few, method=method).advice.startswith("Few: nothing to do")


def test_no_intruders_no_sp201():
    assert said(INTRUDERS, *clean_adapter()) is None


# --- SP202 near chance


def test_a_count_from_matrices_near_chance_is_doubted():
    small = row(base(size=40), testing.plant_intruders(base(size=40), 2, strength=9, seed=1))
    raised = said(CHANCE, small, *clean_adapter())
    assert raised.severity == "info"
    assert raised.numbers["intruders"] == small.found > 0
    assert raised.numbers["least_null"] == pytest.approx(0.39, abs=0.02)


def test_a_model_of_small_matrices_is_told_that_counts_say_little():
    assert said(CHANCE, *(adapter(base(seed, 32), strength=0.01) for seed in range(3))) is not None


def test_a_token_type_embedding_causes_no_finding_on_its_own():
    """2 x 384: no vector there can be an intruder, and the other matrices are large enough."""
    types = row(testing.decaying(2, 384, seed=1), testing.noise(2, 384, level=0.05, seed=2))
    assert said(CHANCE, types, *clean_fine_tune()) is None


def test_large_matrices_are_far_from_chance():
    assert said(CHANCE, *clean_adapter()) is None


def test_a_smaller_epsilon_brings_chance_nearer():
    rows = [adapter(base(), strength=0.01, epsilon=0.3)]
    assert said(CHANCE, *rows, epsilon=0.3) is not None
    assert said(CHANCE, *rows, epsilon=0.5) is None


# --- SP301, SP302 rank


def test_a_rank_of_which_one_direction_is_used_is_mostly_unused():
    def one_direction(seed):
        U, V = testing.orthogonal(SIZE, 16, seed=seed), testing.orthogonal(SIZE, 16, seed=seed + 9)
        return row(base(seed), LowRank(U * torch.tensor([0.3] + 15 * [1e-3]), V.T), allotted=16)

    rows = [one_direction(seed) for seed in range(3)]
    raised = said(RANK_UNUSED, *rows)
    assert raised.numbers["rank_for_99"] == 1
    assert "r = 16" in raised.message
    assert "r = 1 would do" in raised.advice
    assert said(RANK_EXHAUSTED, *rows) is None


def test_equal_singular_values_use_the_rank_up():
    rows = [adapter(base(seed), rank=8, strength=0.1) for seed in range(3)]
    raised = said(RANK_EXHAUSTED, *rows)
    assert raised.numbers["median_utilisation"] == pytest.approx(1.0)
    assert "in 3 of 3 matrices" in raised.message
    assert said(RANK_UNUSED, *rows) is None


def test_a_minority_of_rows_is_no_rank_finding():
    U, V = testing.orthogonal(SIZE, 8, seed=1), testing.orthogonal(SIZE, 8, seed=2)
    halfway = [row(base(), LowRank(U * torch.linspace(0.3, 0.01, 8), V.T), allotted=8) for _ in range(2)]
    assert said(RANK_EXHAUSTED, adapter(base(), rank=8), *halfway) is None
    assert said(RANK_UNUSED, *halfway) is None
    one_direction = row(base(), LowRank(U[:, :8] * torch.tensor([0.3] + 7 * [1e-3]), V.T), allotted=8)
    assert said(RANK_UNUSED, one_direction, *halfway) is None
    assert said(RANK_UNUSED, one_direction) is not None


def test_rank_one_and_full_fine_tuning_have_no_rank_to_judge():
    assert said(RANK_EXHAUSTED, adapter(base(), rank=1)) is None
    assert said(RANK_EXHAUSTED, *clean_fine_tune(), method="full fine-tuning") is None


# --- SP303, SP304 rounding


def half(seed):
    return testing.rounded(base(seed), torch.bfloat16)


def stored_in_half(seed, strength):
    B, A = testing.lora({"w.weight": half(seed)}, ["w"], rank=4, strength=strength, seed=seed)["w"]
    return row(half(seed), testing.rounded(half(seed) + B @ A, torch.bfloat16) - half(seed), dtype="bfloat16")


def test_a_merged_adapter_in_half_precision_has_the_rank_of_its_rounding():
    rows = [stored_in_half(seed, 0.02) for seed in range(3)]
    raised = said(RANK_IS_ROUNDING, *rows, method="full fine-tuning")
    assert raised.severity == "warning"
    assert raised.numbers["median_above_floor"] == 4
    assert raised.numbers["median_effective"] > 8
    assert "in 3 of 3 matrices stored in bfloat16" in raised.message


def test_a_single_such_matrix_is_a_remark():
    strong = [row(half(seed), testing.noise(SIZE, SIZE, level=2.0, seed=seed), dtype="bfloat16") for seed in range(3)]
    assert said(RANK_IS_ROUNDING, *strong, method="full fine-tuning") is None
    assert said(RANK_IS_ROUNDING, stored_in_half(0, 0.02), *strong, method="full fine-tuning").severity == "info"


def test_float32_and_adapters_have_no_rounded_rank():
    assert said(RANK_IS_ROUNDING, *clean_fine_tune(), method="full fine-tuning") is None
    weak = adapter(half(0), strength=1e-4, dtype="bfloat16")
    assert weak.rank.above_floor == 0
    assert said(RANK_IS_ROUNDING, weak) is None


def test_a_small_adapter_vanishes_when_merged_in_half_precision():
    rows = [adapter(half(seed), strength=2e-3, dtype="bfloat16") for seed in range(3)]
    raised = said(LOST_IN_MERGE, *rows)
    assert raised.severity == "warning"
    assert 0.5 < raised.numbers["median_lost"] < 1
    assert "in 3 of 3 matrices" in raised.message


def test_a_single_small_update_among_strong_ones_is_a_remark():
    strong = [adapter(half(seed), strength=0.3, dtype="bfloat16") for seed in range(3)]
    assert said(LOST_IN_MERGE, *strong) is None
    assert said(LOST_IN_MERGE, adapter(half(0), strength=2e-3, dtype="bfloat16"), *strong).severity == "info"


def test_a_small_adapter_on_a_float32_base_is_not_lost():
    assert said(LOST_IN_MERGE, adapter(base(), strength=2e-3)) is None


def test_a_weight_stored_in_full_is_merged_already():
    small = row(half(0), testing.noise(SIZE, SIZE, level=1e-4, seed=1), dtype="bfloat16")
    assert small.floor.lost > 0.5
    assert said(LOST_IN_MERGE, small, method="full fine-tuning") is None
