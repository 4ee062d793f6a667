"""Each claim of a comparison follows from its numbers, carries its limits, and is not made where it is not true."""

import dataclasses
import json

import pytest

import spectra
from spectra import testing
from spectra.analysis.claims import claims
from spectra.analysis.comparison import compare
from spectra.analysis.side_by_side import line_up

MODELS = ("lora-r2", "lora-r32", "full")


@pytest.fixture(scope="module")
def compared(trio):
    return spectra.compare(trio / "base", {name: trio / name for name in MODELS})


def of(found, word):
    """The one claim whose sentence has a word."""
    (claim,) = [claim for claim in found if word in claim.text]
    return claim


def scaled(base, tuned, scale):
    return {key: weight + scale * (tuned[key] - weight) for key, weight in base.items()}


def test_every_claim_has_evidence_limits_and_sources(compared):
    assert len(compared.claims) == 6
    assert compared.claims[:1] == compared.ranking.ties  # nothing but numbers of this comparison
    for claim in compared.claims[1:]:
        assert claim.text.endswith(".")
        assert claim.evidence
        assert claim.limits
        assert claim.sources
        assert all(source.url.startswith("https://") for source in claim.sources)


def test_the_counts_are_those_of_the_matrices_that_both_change(compared):
    claim = of(compared.claims, "intruders than full (")
    lora, full = (compared.models[name] for name in ("lora-r2", "full"))
    shared = {row.key for row in lora.rows if row.ok} & {row.key for row in full.rows if row.ok}
    ours, theirs = (
        sum(side.rotated + side.new for row in model.rows if row.key in shared for side in row.intruders)
        for model in (lora, full)
    )
    assert claim.evidence[0].startswith(f"lora-r2: {ours} against {theirs} of {10 * len(shared)} directions")
    assert f"{len(shared)} matrices both change" in claim.evidence[0]
    assert "of 19" in claim.evidence[0]
    assert claim.numbers["lora-r2"]["intruders"] == (ours, theirs)


def test_a_larger_update_is_named_as_a_rival_explanation(compared):
    claim = of(compared.claims, "size alone may explain them")
    assert "lora-r2" in claim.text
    ratio = of(compared.claims, "intruders than full (").numbers["lora-r2"]["size"]
    assert f"{ratio:.3g} times full's" in claim.evidence[0]
    assert f"at scale {1 / ratio:.2g} it would be as large" in claim.evidence[0]


def test_a_smaller_update_with_more_intruders_is_not_explained_by_size(base, tuned):
    """A few strong directions against small noise in all: more intruders at a fraction of the norm."""
    tied = {
        key: weight + testing.noise(*weight.shape, level=0.3, seed=at).float() if weight.ndim == 2 else weight
        for at, (key, weight) in enumerate(base.items())
    }
    large = scaled(base, tied, 0.02)
    large = {key: weight + (9 * base[key] if weight.ndim == 2 else 0) for key, weight in large.items()}
    for names in (("spikes", "stretched"), ("stretched", "spikes")):
        found = compare(base, {name: {"spikes": tuned, "stretched": large}[name] for name in names})
        pair = found.claims[0].numbers[names[1]]
        assert (pair["intruders"][0] > pair["intruders"][1]) == (pair["size"] < 1)
        assert of(found.claims, f"size does not explain the difference from {names[0]}")


def test_an_update_too_small_to_have_intruders_shows_nothing(base, tuned):
    found = compare(base, {"large": scaled(base, tuned, 0.2), "small": scaled(base, tuned, 1e-3)})
    assert found.claims[0].numbers["small"]["intruders"] == (0, 0)
    assert of(found.claims, "small: the smaller update and no more intruders than large")


def test_equal_models_differ_in_nothing(base, tuned):
    found = compare(base, {"one": tuned, "other": tuned})
    assert of(found.claims, "as many intruders as")
    assert of(found.claims, "about the rank of")
    assert of(found.claims, "no difference from")


def test_forgetting_is_said_to_be_disputed_with_both_sides(compared):
    claim = of(compared.claims, "disputed")
    assert any(line.startswith("for:") for line in claim.evidence)
    assert any(line.startswith("against:") for line in claim.evidence)
    names = " ".join(source.name for source in claim.sources)
    assert "2410.21228" in names
    assert "2607.23711" in names
    assert "OpenReview" in names


def test_one_model_alone_is_compared_with_nothing(base, tuned):
    found = compare(base, {"alone": tuned})
    assert len(found.claims) == 2
    assert not any("alone" in claim.text for claim in found.claims)


def test_without_a_full_fine_tune_the_one_with_fewest_intruders_is_the_measure(folders):
    found = compare(folders / "base", {name: folders / name for name in ("other", "lora")})
    fewest = min(found.standings, key=lambda standing: standing.share).name
    assert of(found.claims, f"than {fewest} (")


def test_the_full_fine_tune_is_the_measure_wherever_it_stands(compared):
    for order in (MODELS, MODELS[::-1]):
        models = {name: compared.models[name] for name in order}
        assert "than full (" in claims(models, line_up(models))[0].text


def test_models_that_share_no_matrix_are_not_compared(base, tuned):
    names = [key for key, weight in base.items() if weight.ndim == 2][:2]
    one, other = ({key: tuned[key] if key == name else base[key] for key in base} for name in names)
    found = compare(base, {"one": one, "other": other})
    assert of(found.claims, "no matrix in common")
    assert len(found.claims) == 3


def test_nothing_measured_claims_nothing(base):
    found = compare(base, {"same": base})
    assert found.claims == ()
    assert "nothing to judge" in found.standings[0].advice.text


def test_an_estimated_rank_within_its_error_is_called_alike(compared):
    """The ranks of the demo differ; with error bars wider than their distance they do not."""
    models = dict(compared.models)
    for name, model in models.items():
        rows = []
        for row in model.rows:
            error = spectra.metrics.ranks.RankErrors(200.0, 0.0, 0.0, 0, 0, 0, 0, 0, None)
            rows.append(dataclasses.replace(row, rank=dataclasses.replace(row.rank, error=error)) if row.ok else row)
        models[name] = dataclasses.replace(model, rows=tuple(rows))
    found = claims(models, line_up(models))
    assert "estimated, ± 200.0" in of(found, "about the rank of").evidence[0]


def test_a_fleet_is_named_in_a_line(base, tuned):
    found = compare(base, {f"copy-{number}": tuned for number in range(9)})
    claim = of(found.claims, "as many intruders as")
    assert "and 4 more" in claim.text
    assert len(claim.evidence) == 5
    assert len(claim.numbers) == 8


def test_hostile_names_are_shown_safe(base, tuned):
    found = compare(base, {"a\x1b[31m": tuned, "b\nc": tuned})
    assert "a\\x1b" in found.claims[0].text + found.claims[0].evidence[0]
    for claim in (*found.claims, *(standing.advice for standing in found.standings if standing.advice)):
        assert all(line.isprintable() for line in (claim.text, *claim.evidence, *claim.limits))


def test_advice_that_the_models_contradict_says_so(compared):
    """The demo's rank 32 has more intruders than its rank 2: a higher rank alone is no remedy there."""
    (advice,) = [standing.advice for standing in compared.standings if standing.name == "lora-r2"]
    assert "a rank above 2" in advice.text
    assert advice.limits[0].startswith("rank alone did not lower the count here: lora-r32 has a higher rank and 41 ")
    (advice,) = [standing.advice for standing in compared.standings if standing.name == "full"]
    assert advice is None


def test_the_json_holds_the_claims(compared):
    document = json.loads(compared.to_json())
    assert [claim["text"] for claim in document["claims"]] == [claim.text for claim in compared.claims]
    assert document["claims"][1]["numbers"]["lora-r2"]["over_epsilon"]["more"] > 0
