"""Sentences that every output shares."""

from dataclasses import replace

from spectra import diagnose, testing
from spectra.reports import words


def test_a_least_similarity_that_is_not_exact_is_an_interval():
    base = testing.decaying(96, 80, seed=1).float()
    update = testing.plant_intruders(base, 2, strength=1.5, seed=2).dense().float()
    (row,) = diagnose({"w.weight": base}, {"w.weight": base + update}, method="exact").rows
    assert words.least_similarity(row) == f"{min(row.intruders[0].similarity):.2f}"
    side = row.intruders[0]
    unsure = replace(side, similarity=(0.0, 0.9), similarity_bound=(0.43, 0.95))
    assert words.least_similarity(replace(row, intruders=(unsure,))) == "0.00 to 0.43"
    assert words.least_similarity(replace(row, intruders=())) == ""


def test_what_stands_above_rounding_is_unknown_where_the_weights_are_packed():
    base = {name: testing.noise(80, 70, level=1.0, seed=seed).float() for seed, name in enumerate(("a", "b"))}
    tuned = {
        name: W0 + testing.plant_intruders(W0, 2, strength=0.1, seed=2).dense().float() for name, W0 in base.items()
    }
    report = diagnose(base, tuned)
    assert "above rounding 2 (medians)" in words.rank_line(report)
    packed = [
        replace(row, floor=None, rank=replace(row.rank, above_floor=None)) if at else row
        for at, row in enumerate(report.rows)
    ]
    some = replace(report, rows=packed)
    assert "above rounding 2 where known, not in 1 stored packed (medians)" in words.rank_line(some)
    none = replace(report, summary={**report.summary, "above_floor": None})
    assert "above rounding unknown, as the weights are stored packed (medians)" in words.rank_line(none)
