"""Each finding speaks about a planted case, with its numbers, and is silent about a clean one."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from spectra import testing
from spectra.analysis.settings import Settings
from spectra.engine.choose import Request, decompose
from spectra.errors import UsageError
from spectra.findings.almost_untrained import ALMOST_UNTRAINED
from spectra.findings.finding import Evidence
from spectra.findings.intruders import INTRUDERS
from spectra.findings.intruders_concentrated import INTRUDERS_CONCENTRATED
from spectra.findings.intruders_everywhere import INTRUDERS_EVERYWHERE
from spectra.findings.lost_in_merge import LOST_IN_MERGE
from spectra.findings.near_chance import NEAR_CHANCE
from spectra.findings.non_finite import NON_FINITE
from spectra.findings.not_measured import NOT_MEASURED
from spectra.findings.rank_exhausted import RANK_EXHAUSTED
from spectra.findings.rank_is_rounding import RANK_IS_ROUNDING
from spectra.findings.rank_unused import RANK_UNUSED
from spectra.findings.rules import RULES, chosen, find
from spectra.findings.untrained import UNTRAINED
from spectra.findings.wrong_base import WRONG_BASE
from spectra.loaders.plan import TunedInfo
from spectra.metrics.intruders import ROTATED_BELOW
from spectra.metrics.layer import measure, unmeasured
from spectra.metrics.ranks import RankErrors
from spectra.metrics.status import FAILED, NONFINITE, OOM, ZERO
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
    return Evidence(rows, TunedInfo("tuned", method, 100, 400), epsilon)


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


def test_the_table_is_in_the_order_of_its_codes_and_every_rule_is_told_in_full():
    codes = [rule.code for rule in RULES]
    assert codes == sorted(set(codes))
    assert len({rule.name for rule in RULES}) == len(RULES)
    for rule in RULES:
        assert rule.meaning.endswith("."), rule.code
        assert rule.advice.endswith("."), rule.code
        assert rule.doubts.endswith("."), rule.code
        assert rule.source, rule.code
        assert list(rule.severities) == sorted(set(rule.severities), key=["error", "warning", "info"].index)


def test_a_code_keeps_its_name():
    """Codes and names are in people's pipelines: none is ever given to another finding."""
    assert {rule.code: rule.name for rule in RULES}.items() >= {
        "SP101": "untrained", "SP102": "non-finite", "SP103": "wrong-base", "SP104": "almost-untrained",
        "SP108": "not-measured", "SP201": "intruders", "SP202": "near-chance", "SP203": "intruders-concentrated",
        "SP204": "intruders-everywhere", "SP301": "rank-unused", "SP302": "rank-exhausted",
        "SP303": "rank-is-rounding", "SP304": "lost-in-merge",
    }.items()  # fmt: skip


def test_every_finding_has_a_planted_and_a_clean_case():
    """Read off the tests of this folder: a call that finds something, and one that finds nothing."""
    lines = [line for file in Path(__file__).parent.glob("test_*.py") for line in file.read_text().splitlines()]
    for rule in RULES:
        constant = rule.name.replace("-", "_").upper()
        calls = [line for line in lines if f'raised("{rule.code}"' in line or f"said({constant}, " in line]
        clean = [line for line in calls if line.endswith(("is None", "== []"))]
        assert clean, f"{rule.code} has no clean case"
        assert len(calls) > len(clean), f"{rule.code} has no planted case"


def test_a_severity_that_the_table_does_not_name_cannot_be_raised(monkeypatch):
    wrong = replace(UNTRAINED, severities=("info",))
    monkeypatch.setattr("spectra.findings.rules.RULES", (wrong,))
    with pytest.raises(AssertionError, match="SP101"):
        find(evidence(not_measured(ZERO)))


def test_one_finding_a_file():
    for rule in RULES:
        assert rule.check.__module__ == f"spectra.findings.{rule.name.replace('-', '_')}"


def test_hostile_names_reach_no_message_raw():
    key = "h.0.\x1b[31m\u202e<b>\n::error::.weight"
    spiked = row(base(), testing.plant_intruders(base(), 6, seed=1), key=key)
    rows = [spiked, *clean_fine_tune(), not_measured(ZERO, key), not_measured(NONFINITE, key)]
    found = find(evidence(*rows, method="full fine-tuning"))
    assert {finding.code for finding in found} >= {"SP101", "SP102", "SP203"}
    for finding in found:
        assert finding.message.isprintable()
        assert finding.advice.isprintable()
        assert all(value.isprintable() for value in finding.numbers.values() if isinstance(value, str))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_the_texts_are_clean(rule):
    for text in (rule.summary, rule.meaning, rule.advice, rule.doubts, rule.source):
        assert text.isprintable()
        assert text == text.strip()
        assert "  " not in text
        assert not re.search(r"[{}]|\b0\.\d{4,}", text), "a threshold is written as a person would"
    assert rule.summary.endswith(".")
    assert rule.summary[0].isupper()
    assert set(re.findall(r"SP\d{3}", f"{rule.meaning} {rule.advice} {rule.doubts}")) <= {one.code for one in RULES}


def test_the_words_for_new_and_rotated_are_true_of_the_metric():
    assert ROTATED_BELOW == 0.5
    assert "more than half of it lies outside the base's top space" in INTRUDERS.meaning


# --- which to look for


CODES = [rule.code for rule in RULES]


def test_everything_is_looked_for_unless_something_is_chosen():
    assert [rule.code for rule in chosen()] == CODES


@pytest.mark.parametrize(
    ("select", "ignore", "codes"),
    [
        (["SP201"], [], ["SP201"]),
        (["SP103", "SP101"], [], ["SP101", "SP103"]),
        (["wrong-base", " sp301 "], [], ["SP103", "SP301"]),
        (["SP10"], ["untrained", "SP102"], [code for code in CODES if code.startswith("SP10")][2:]),
        ([], ["SP1", "SP2"], [code for code in CODES if code > "SP3"]),
        (["SP"], [], CODES),
    ],
)
def test_codes_starts_of_codes_and_names_choose(select, ignore, codes):
    assert [rule.code for rule in chosen(select, ignore)] == codes


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("SPP201", "did you mean 'SP201'?"),
        ("rank-unusd", "did you mean 'rank-unused'?"),
        ("", "`spectra explain` lists them."),
        ("S", "`spectra explain` lists them."),
        ("\x1b[31m", "`spectra explain` lists them."),
    ],
)
def test_a_word_that_is_no_finding_is_refused_with_the_nearest(word, hint):
    for options in ({"select": [word]}, {"ignore": [word]}):
        with pytest.raises(UsageError) as refused:
            chosen(**options)
        assert hint in str(refused.value)
        assert str(refused.value).isprintable()


@pytest.mark.parametrize(("select", "ignore"), [(["SP201"], ["SP2"]), ([], ["SP"])])
def test_nothing_left_to_look_for_is_refused(select, ignore):
    with pytest.raises(UsageError, match="no finding is left to look for"):
        chosen(select, ignore)


def test_a_wrong_code_is_refused_before_anything_is_measured():
    with pytest.raises(UsageError, match="did you mean 'rank-unused'"):
        Settings(select=["rank-unusd"])


def test_one_text_is_no_list_of_codes():
    with pytest.raises(UsageError, match=r"select takes a list of codes and names: \['SP201'\]"):
        chosen("SP201")


def test_only_what_was_chosen_is_found():
    rows = [not_measured(NONFINITE), not_measured(ZERO), *clean_adapter()]
    assert [finding.code for finding in find(evidence(*rows))] == ["SP102", "SP101", "SP302"]
    assert [finding.code for finding in find(evidence(*rows), select=["SP1"])] == ["SP102", "SP101"]
    assert [finding.code for finding in find(evidence(*rows), ignore=["untrained"])] == ["SP102", "SP302"]


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
    assert raised.message == "1 matrix of 5 did not change at all: w."
    assert "frozen" in raised.advice


def test_an_adapted_matrix_that_did_not_change_is_a_warning():
    raised = said(UNTRAINED, not_measured(ZERO), *clean_adapter())
    assert raised.severity == "warning"
    assert "no gradient or no step" in raised.advice


def test_rows_that_changed_are_no_sp101():
    assert said(UNTRAINED, *clean_adapter()) is None


# --- SP102 non-finite, SP108 not measured


def test_weights_that_are_not_numbers_are_an_error():
    raised = said(NON_FINITE, not_measured(NONFINITE, "a"), not_measured(NONFINITE, "b"), *clean_adapter())
    assert (raised.severity, raised.numbers) == ("error", {"rows": 2, "matrices": 6})
    assert [layer.key for layer in raised.layers] == ["a", "b"]
    assert raised.message == "2 matrices of 6 hold NaN or infinity."
    assert said(NON_FINITE, not_measured(NONFINITE)).message == "1 matrix of 1 holds NaN or infinity."


@pytest.mark.parametrize(("status", "method"), [(FAILED, "exact"), (OOM, "certified")])
def test_rows_that_could_not_be_measured_are_an_error(status, method):
    raised = said(NOT_MEASURED, not_measured(status, "a"), not_measured(status, "b"), *clean_adapter())
    assert (raised.severity, raised.numbers) == ("error", {"status": status, "rows": 2, "matrices": 6})
    assert [layer.key for layer in raised.layers] == ["a", "b"]
    assert raised.message.startswith("2 matrices of 6 ")
    assert f"--method {method}" in raised.advice


def test_different_failures_are_told_apart():
    rows = [not_measured(NONFINITE), not_measured(FAILED), not_measured(OOM)]
    assert [(found.code, found.message) for found in find(evidence(*rows))] == [
        ("SP102", "1 matrix of 3 holds NaN or infinity."),
        ("SP108", "1 matrix of 3 could not be decomposed."),
        ("SP108", "1 matrix of 3 did not fit into memory."),
    ]


def test_a_zero_update_is_no_failure():
    assert said(NON_FINITE, not_measured(ZERO), *clean_adapter()) is None
    assert said(NOT_MEASURED, not_measured(ZERO), *clean_adapter()) is None


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
    assert "3 of 5 matrices lie far from the base, 2 are equal to it" in raised.message


def test_that_no_matrix_is_equal_is_said_in_a_word():
    raised = said(WRONG_BASE, *(row(base(seed), base(seed + 50) - base(seed)) for seed in range(3)))
    assert "3 of 3 matrices lie far from the base, none is equal to it" in raised.message


def test_matrices_that_were_not_measured_say_nothing_of_the_base():
    far = [row(base(seed), base(seed + 50) - base(seed)) for seed in range(2)]
    assert said(WRONG_BASE, *far, *[not_measured(FAILED)] * 5, method="full fine-tuning").numbers["judged"] == 2


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


def planted(count, module="a", block=0, seed=1):
    W0 = base(seed)
    update = (
        testing.plant_intruders(W0, count, seed=seed) if count else testing.noise(SIZE, SIZE, level=0.02, seed=seed)
    )
    return row(W0, update, key=f"h.{block}.{module}.weight")


def intruder_codes(*rows, **options):
    return [finding.code for finding in find(evidence(*rows, **options), select=["SP201", "SP203", "SP204"])]


def test_one_module_is_named_where_all_of_them_sit_there():
    assert "in 2 of 3 matrices, all in a" in said(INTRUDERS, planted(1), planted(3), planted(0, "b")).message
    assert "spread over 2 kinds of module" in said(INTRUDERS, planted(2, "a"), planted(2, "b")).message


def test_most_of_them_in_one_kind_of_module_are_concentrated():
    rows = [planted(4 if module == "a" else 0, module, block) for block in range(2) for module in "abc"]
    assert intruder_codes(*rows, planted(1, "b")) == ["SP203"]
    raised = said(INTRUDERS_CONCENTRATED, *rows, planted(1, "b"))
    assert (raised.numbers["place"], raised.numbers["in_place"], raised.numbers["intruders"]) == ("a", 8, 9)
    assert "8 of them among the 20 of a" in raised.message
    assert "a smaller scale" in raised.advice


def test_most_of_them_in_one_block_are_concentrated():
    rows = [planted(3 if block == 1 else 0, module, block) for block in range(3) for module in "ab"]
    raised = said(INTRUDERS_CONCENTRATED, *rows, method="full fine-tuning")
    assert raised.numbers["place"] == "block 1"
    assert "freeze it" in raised.advice
    assert intruder_codes(*rows) == ["SP203"]


def test_where_most_sit_in_one_place_and_some_everywhere_the_place_is_named():
    rows = [planted(6 if module == "a" else 1, module, block) for block in range(2) for module in "abcd"]
    assert intruder_codes(*rows) == ["SP203"]


def test_a_handful_is_not_concentrated():
    assert intruder_codes(planted(4), *[planted(0, "b", block) for block in range(4)]) == ["SP201"]


def test_a_kind_of_module_that_is_most_of_the_model_has_most_of_them_of_right():
    rows = [planted(1, "a", block) for block in range(6)]
    assert said(INTRUDERS_CONCENTRATED, *rows, planted(0, "b")) is None


def test_some_in_nearly_every_matrix_are_everywhere():
    rows = [planted(1, module, block) for block in range(2) for module in "abcd"]
    assert intruder_codes(*rows) == ["SP204"]
    raised = said(INTRUDERS_EVERYWHERE, *rows)
    assert raised.severity == "info"
    assert "in 8 of 8 matrices" in raised.message
    assert said(INTRUDERS_EVERYWHERE, *[planted(2, "a", block) for block in range(4)]).severity == "warning"


@pytest.mark.parametrize(("without", "code"), [(2, "SP204"), (3, "SP201")])
def test_everywhere_is_three_quarters_of_the_matrices(without, code):
    rows = [planted(int(seed >= without), "abcd"[seed % 4], seed // 4) for seed in range(8)]
    assert intruder_codes(*rows) == [code]


def test_three_matrices_are_not_everywhere():
    assert intruder_codes(*[planted(1, module) for module in "abc"]) == ["SP201"]
    assert said(INTRUDERS_EVERYWHERE, *[planted(1, module) for module in "abc"]) is None


def test_intruders_of_matrices_near_chance_are_left_to_sp202():
    small = row(base(size=40), testing.plant_intruders(base(size=40), 2, strength=9, seed=1))
    assert small.found > 0
    assert [finding.code for finding in find(evidence(small), select=["SP2"])] == ["SP202"]
    both = said(INTRUDERS, small, planted(1))
    assert both.message.endswith(" Not judged: 10 directions of matrices so small that chance decides.")
    assert "Not judged" not in said(INTRUDERS, planted(1)).message
    assert (both.numbers["intruders"], both.numbers["examined"]) == (1, 10)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_matrices_too_small_to_have_intruders_raise_no_finding(size):
    """No similarity is below 1 / sqrt(m) against a complete basis."""
    rows = [row(base(seed, size), testing.noise(size, size, level=0.1, seed=seed)) for seed in range(4)]
    assert find(evidence(*rows, method="full fine-tuning"), select=["SP2"]) == []


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
    raised = said(NEAR_CHANCE, small, *clean_adapter())
    assert raised.severity == "info"
    assert raised.numbers["intruders"] == small.found > 0
    assert raised.numbers["least_null"] == pytest.approx(0.39, abs=0.02)


def test_a_model_of_small_matrices_is_told_that_counts_say_little():
    assert said(NEAR_CHANCE, *(adapter(base(seed, 32), strength=0.01) for seed in range(3))) is not None


def test_a_token_type_embedding_causes_no_finding_on_its_own():
    """2 x 384: no vector there can be an intruder, and the other matrices are large enough."""
    types = row(testing.decaying(2, 384, seed=1), testing.noise(2, 384, level=0.05, seed=2))
    assert said(NEAR_CHANCE, types, *clean_fine_tune()) is None


def test_large_matrices_are_far_from_chance():
    assert said(NEAR_CHANCE, *clean_adapter()) is None


def test_a_smaller_epsilon_brings_chance_nearer():
    rows = [adapter(base(), strength=0.01, epsilon=0.3)]
    assert said(NEAR_CHANCE, *rows, epsilon=0.3) is not None
    assert said(NEAR_CHANCE, *rows, epsilon=0.5) is None


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


def uncertain(layer, error, *names):
    """The row with every rank, or those named, estimated to within `error`."""
    errors = {name: error if not names or name in names else 0 for name in RankErrors.__slots__}
    return replace(layer, rank=replace(layer.rank, error=RankErrors(**errors)))


def test_the_interval_of_a_rank_has_its_error_on_both_sides_and_no_end_below_zero():
    known = adapter(base(), rank=8).rank
    assert known.interval("energy_99") == (8, 8)
    estimated = uncertain(adapter(base(), rank=8), 3).rank
    assert estimated.interval("energy_99") == (5, 11)
    assert uncertain(adapter(base(), rank=8), 20).rank.interval("above_floor")[0] == 0


def test_an_estimated_rank_is_judged_by_the_end_that_speaks_against_the_finding():
    full = [adapter(base(seed), rank=8) for seed in range(3)]
    assert said(RANK_EXHAUSTED, *(uncertain(layer, 1) for layer in full)) is not None
    assert said(RANK_EXHAUSTED, *(uncertain(layer, 2) for layer in full)) is None
    U, V = testing.orthogonal(SIZE, 16, seed=1), testing.orthogonal(SIZE, 16, seed=2)
    one = row(base(), LowRank(U * torch.tensor([0.3] + 15 * [1e-3]), V.T), allotted=16)
    assert said(RANK_UNUSED, uncertain(one, 4)).numbers["rank_for_99"] == 5
    assert said(RANK_UNUSED, uncertain(one, 5)) is None


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


@pytest.mark.parametrize(("name", "room"), [("effective", 1.0), ("above_floor", 0.5)])
def test_an_estimated_rank_is_called_rounding_only_where_it_is_sure(name, room):
    """Half of the least effective rank must lie above the most that stands above the floor."""
    rows = [stored_in_half(seed, 0.02) for seed in range(3)]
    spare = room * max(layer.rank.effective - 2 * layer.rank.above_floor for layer in rows)
    assert (
        said(RANK_IS_ROUNDING, *(uncertain(layer, 0.1, name) for layer in rows), method="full fine-tuning") is not None
    )
    wide = [uncertain(layer, 1.01 * spare, name) for layer in rows]
    assert said(RANK_IS_ROUNDING, *wide, method="full fine-tuning") is None


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
