"""The law is drawn against the curve, one point a matrix, hollow where there is no crossing."""

from dataclasses import replace

import pytest

from spectra.plots.law import law


def points(ax):
    return {
        (float(x), float(y)): line.get_markerfacecolor() == "none"
        for line in ax.lines
        if line.get_linestyle() == "None"
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }


def test_every_matrix_is_a_point(sweep):
    sweep = replace(sweep, rows=(replace(sweep.rows[0], bracket=None), *sweep.rows[1:]))
    expected = {(row.critical or 2.0, row.law.critical): row.critical is None for row in sweep.measured}
    assert points(law(sweep)) == expected


def test_the_share_within_a_factor_of_two_is_written(sweep):
    texts = [text.get_text() for text in law(sweep).texts]
    found = sweep.law
    assert any(f"within a factor of 2: {found.within} of {found.compared}" in text for text in texts)


@pytest.mark.parametrize("critical", [1e-4, 0.5, 40.0])
def test_both_axes_show_the_same_range(sweep, critical):
    rows = tuple(replace(row, bracket=(critical / 2, critical)) for row in sweep.rows)
    ax = law(replace(sweep, rows=rows))
    assert ax.get_xlim() == ax.get_ylim()
    assert ax.get_xlim()[0] < critical < ax.get_xlim()[1]


def test_without_a_law_there_is_nothing_to_compare(sweep):
    ax = law(replace(sweep, rows=tuple(replace(row, law=None) for row in sweep.rows)))
    assert [text.get_text() for text in ax.texts] == ["no matrix with a law to compare"]
