"""Wherever an estimated rank is read, its error bar stands beside it; an exact one has none."""

import re

import matplotlib as mpl
import pytest

import spectra
from spectra import testing
from spectra.plots.rank import rank as draw
from spectra.reports import words

BAR = re.compile(r"\d+\.\d ± \d+\.\d")


@pytest.fixture(scope="module")
def reports():
    base = testing.decaying(160, 200, seed=1).float()
    tuned = base + testing.noise(160, 200, level=0.2, seed=2).float()
    return {
        spectrum: spectra.diagnose({"w.weight": base}, {"w.weight": tuned}, spectrum=spectrum)
        for spectrum in ("exact", "estimated")
    }


def test_a_rank_is_said_with_its_error(reports):
    exact, found = (reports[name].rows[0].rank for name in ("exact", "estimated"))
    assert words.rank_value(exact, "effective") == f"{exact.effective:.1f}"
    assert words.rank_value(exact, "energy_90") == str(exact.energy_90)
    assert words.rank_value(found, "effective") == f"{found.effective:.1f} ± {found.error.effective:.1f}"
    assert words.rank_value(found, "energy_90") == f"{found.energy_90} ± {found.error.energy_90}"


@pytest.mark.parametrize(
    "form", [str, spectra.Report.to_html, spectra.Report._repr_html_], ids=["text", "page", "notebook"]
)
def test_every_output_has_the_error_bar(reports, form):
    assert BAR.search(form(reports["estimated"])) or "effective rank ± " in form(reports["estimated"])
    assert "±" not in form(reports["exact"])


def test_the_summary_says_how_many_are_estimated(reports):
    off = reports["estimated"].rows[0].rank.error.effective
    assert f"1 of 1 estimated, effective rank ± {off:.1f}" in words.rank_line(reports["estimated"])


def test_the_figure_draws_the_bar(reports):
    with mpl.rc_context():
        drawn = {name: draw({name: report}) for name, report in reports.items()}
    found = reports["estimated"].rows[0].rank
    (bar,) = [lines for lines in drawn["estimated"].collections if lines.get_label() == "_error"]
    ends = bar.get_segments()[0][:, 1]
    assert sorted(ends) == pytest.approx(
        [found.effective - found.error.effective, found.effective + found.error.effective]
    )
    assert not [lines for lines in drawn["exact"].collections if lines.get_label() == "_error"]
