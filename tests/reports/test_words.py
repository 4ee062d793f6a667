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
