"""The ranking says no more than its numbers: an order where all agree, a tie with both sides where they do not."""

import dataclasses

import pytest

import spectra
from spectra import testing
from spectra.analysis.ranking import rank_models
from spectra.analysis.side_by_side import line_up


@pytest.fixture(scope="module")
def compared(trio):
    models = {name: trio / name for name in ("lora-r2", "lora-r32", "full")}
    return spectra.compare(trio / "base", models, equal_size=True)


@pytest.fixture(scope="module")
def strengths(base):
    """One update at three strengths, as full fine-tunes: whatever is asked, the order is the same."""
    noise = {key: testing.noise(*weight.shape, level=1, seed=at).float() for at, (key, weight) in enumerate(base.items())
             if weight.ndim == 2}  # fmt: skip
    return {
        name: {key: weight + level * noise[key] if key in noise else weight for key, weight in base.items()}
        for name, level in (("strong", 0.6), ("weak", 0.05), ("middle", 0.2))
    }


def labels(found):
    return [(standing.label, standing.name) for standing in found.standings]


def test_models_on_which_the_numbers_disagree_are_tied(compared):
    """The demo: rank 2 has fewer intruders at epsilon 0.5, rank 32 fewer new ones, none at equal size, a higher rank."""
    assert labels(compared) == [("1", "full"), ("2=", "lora-r2"), ("2=", "lora-r32")]
    (tie,) = compared.ranking.ties
    assert tie.text == "lora-r2, lora-r32: which is nearer to full depends on what is asked."
    assert compared.ranking.headline == tie.text
    lines = dict(line.split(": ", 1) for line in tie.evidence)
    assert lines["intruders at epsilon 0.5"] == "lora-r2 31, lora-r32 41 (full 0)"
    assert lines["new ones among them"] == "lora-r32 3, lora-r2 19 (full 0)"
    assert lines["difference from full in intruders at equal size"] == "lora-r32 0, lora-r2 16 (full 0)"
    assert lines["effective rank"].startswith("lora-r32 27.2, lora-r2 2.0 (full 111.0")
    assert "lora-r32 at 0.25" in lines["intruders at other thresholds, nearest"]


def test_the_tie_does_not_hang_on_the_epsilon_that_was_asked(trio):
    """At 0.4 the demo's counts are the other way round, and the ranking is the same."""
    models = {name: trio / name for name in ("lora-r2", "lora-r32", "full")}
    found = spectra.compare(trio / "base", models, epsilon=0.4)
    assert found.models["lora-r2"].summary["intruders"] > found.models["lora-r32"].summary["intruders"]
    assert labels(found) == [("1", "full"), ("2=", "lora-r2"), ("2=", "lora-r32")]


def test_models_on_which_all_numbers_agree_are_ordered(base, strengths):
    found = spectra.compare(base, strengths)
    assert labels(found) == [("1", "weak"), ("2", "middle"), ("3", "strong")]
    assert found.ranking.title == "Fewest intruders first"
    assert found.ranking.rule.startswith("All of them are full fine-tunes.")
    assert found.ranking.headline == "Fewest intruders: weak; most: strong."
    assert found.ranking.ties == ()


def test_the_full_fine_tune_is_the_measure_and_not_zero(base, strengths, folders):
    """Beside a strong full fine-tune the model with more intruders is the nearer one."""
    names = {"full": strengths["strong"], "near": strengths["middle"], "faint": strengths["weak"]}
    found = spectra.compare(base, {"lora": faint_adapter(base, folders), **names})
    shares = {standing.name: standing.share for standing in found.standings}
    assert shares["faint"] < shares["near"] < shares["full"]
    assert labels(found)[:2] == [("1", "full"), ("2", "near")]
    assert found.ranking.title == "Nearest to full first"
    assert found.ranking.headline.startswith("Nearest to full: near; furthest: ")


def faint_adapter(base, folders):
    """An adapter of q_proj that changes next to nothing."""
    testing.save_lora(folders / "faint", testing.lora(base, ("q_proj",), rank=8, strength=0.01, seed=5), alpha=8)
    return folders / "faint"


def test_one_model_is_not_ranked(base, tuned):
    found = spectra.compare(base, {"alone": tuned})
    assert labels(found) == [("", "alone")]
    assert found.ranking.title == "The model"
    assert "leading directions are intruders" in found.ranking.headline


def test_one_model_beside_a_full_fine_tune_is_held_against_it_and_not_ranked(folders):
    found = spectra.compare(folders / "base", {name: folders / name for name in ("lora", "full")})
    assert labels(found) == [("", "full"), ("", "lora")]
    assert found.ranking.headline.startswith("lora beside full: ")
    assert "counts all matrices that a model changes" in found.ranking.rule


def test_models_without_an_intruder_are_in_no_order(base, strengths):
    mild = {name: {key: base[key] + 0.02 * (weight - base[key]) for key, weight in model.items()}
            for name, model in strengths.items()}  # fmt: skip
    found = spectra.compare(base, mild)
    assert [name for _, name in labels(found)] == list(mild)
    assert {standing.place for standing in found.standings} == {None}
    assert found.ranking.headline == "None of the 3 models has an intruder."


def test_models_that_are_one_are_alike(base, tuned):
    found = spectra.compare(base, {"one": tuned, "other": tuned})
    assert labels(found) == [("1=", "one"), ("1=", "other")]
    assert found.ranking.headline == "one, other: alike in every number."


def test_models_that_share_no_matrix_are_in_no_order(base, tuned):
    keys = [key for key, weight in base.items() if weight.ndim == 2][:3]
    one, other, both = (
        {key: tuned[key] if key in some else base[key] for key in base} for some in (keys[:1], keys[1:2], keys[:2])
    )
    found = spectra.compare(base, {"both": both, "one": one, "other": other})
    assert {standing.place for standing in found.standings} == {None}
    assert "No matrix is changed by all" in found.ranking.headline


def test_nothing_measured_is_said(base):
    found = spectra.compare(base, {"same": base, "again": base})
    assert found.ranking.headline == "Nothing was measured."
    assert {standing.effective_rank for standing in found.standings} == {None}


def test_a_failed_count_at_equal_size_is_left_out_of_the_order(compared):
    lined_up = line_up(compared.models)
    assert "equal size" not in rank_models(compared.models, lined_up).rule
    sized = tuple(
        dataclasses.replace(pair, equal=spectra.analysis.side_by_side.EqualSize(pair.name, 0.5, (1, 0), failed))
        for failed, pair in enumerate(lined_up.pairs)
    )
    assert "equal size" not in rank_models(compared.models, dataclasses.replace(lined_up, pairs=sized)).rule
    whole = tuple(dataclasses.replace(pair, equal=dataclasses.replace(pair.equal, failed=0)) for pair in sized)
    assert "equal size" in rank_models(compared.models, dataclasses.replace(lined_up, pairs=whole)).rule


def test_the_rule_names_every_number_and_is_in_the_json(compared):
    rule = compared.to_dict()["ranking_rule"]
    assert rule == compared.ranking.rule
    for what in (
        "intruders at epsilon 0.5",
        "new ones",
        "equal size",
        "effective rank",
        "19 thresholds",
        "35 matrices",
    ):
        assert what in rule
