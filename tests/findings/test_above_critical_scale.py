"""SP205: a scale above the one at which the law predicts intruders, where there are some."""

from dataclasses import replace

import pytest

from spectra.analysis.diagnosis import diagnose
from spectra.findings.above_critical_scale import ABOVE_CRITICAL_SCALE
from spectra.findings.finding import Evidence


def test_a_strong_adapter_is_above_its_critical_scale(base, lora, raised):
    (found,) = raised("SP205", base, lora(strength=0.8))
    assert (found.severity, found.numbers["above"], found.numbers["agreement"]) == ("info", 8, 1.0)
    assert found.numbers["least_critical"] <= found.numbers["median_critical"] < 1
    assert "`spectra sweep`" in found.advice


def test_scaled_below_the_least_critical_scale_it_is_not(base, lora, raised):
    least = raised("SP205", base, lora(strength=0.8))[0].numbers["least_critical"]
    assert raised("SP205", base, lora(strength=0.8, alpha=4 * 0.5 * least)) == []


def test_a_mild_adapter_and_a_full_fine_tune_have_none(base, lora, full, raised):
    assert raised("SP205", base, lora()) == []
    assert raised("SP205", base, full(strength=3.0)) == []


@pytest.mark.parametrize(("wrong", "speaks"), [(3, True), (4, False), (8, False)])
def test_a_law_that_is_wrong_about_half_of_the_matrices_is_not_quoted(wrong, speaks, base, lora):
    report = diagnose(base, lora(strength=0.8))
    rows = [
        replace(layer, threshold=replace(layer.threshold, theta=1.5 * layer.threshold.update_spectral))
        if at < wrong
        else layer
        for at, layer in enumerate(report.rows)
    ]
    found = ABOVE_CRITICAL_SCALE.check(Evidence(rows, report.info, 0.5))
    assert [one.numbers["above"] for one in found] == ([8 - wrong] if speaks else [])


def test_a_matrix_without_intruders_is_not_above_whatever_the_law_says(base, lora):
    strong, mild = diagnose(base, lora(strength=0.8)), diagnose(base, lora())
    foretold = [replace(layer, threshold=replace(layer.threshold, theta=0.0, theta_bar=1e-9)) for layer in mild.rows]
    (found,) = ABOVE_CRITICAL_SCALE.check(Evidence([*strong.rows[:6], *foretold[6:]], strong.info, 0.5))
    assert (found.numbers["above"], found.numbers["judged"], found.numbers["agreement"]) == (6, 8, 0.75)


@pytest.mark.parametrize(("known", "speaks"), [(8, True), (4, True), (3, False), (1, False)])
def test_a_few_matrices_whose_base_is_known_do_not_speak_for_all(known, speaks, base, lora):
    report = diagnose(base, lora(strength=0.8))
    rows = [layer if at < known else replace(layer, threshold=None) for at, layer in enumerate(report.rows)]
    found = ABOVE_CRITICAL_SCALE.check(Evidence(rows, report.info, 0.5))
    assert [one.numbers["judged"] for one in found] == ([known] if speaks else [])


def test_where_no_law_is_known_nothing_is_said(base, lora):
    report = diagnose(base, lora(strength=0.8))
    rows = [replace(layer, threshold=None) for layer in report.rows]
    assert ABOVE_CRITICAL_SCALE.check(Evidence(rows, report.info, 0.5)) == []
