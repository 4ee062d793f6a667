"""The curve is the sweep of the rows, as a share of the directions examined."""

from dataclasses import replace

import pytest

from spectra.plots.epsilon import epsilon


def curve(ax, order=0):
    line = ax.lines[order]
    return list(line.get_xdata()), list(line.get_ydata())


def test_the_curve_is_the_sweep_at_k_over_the_directions_examined(report):
    sides = [row.intruders[0] for row in report.rows]
    at_ten = sides[0].sweep_k.index(10)
    counts = [sum(side.sweep[at_ten][at] for side in sides) for at in range(len(sides[0].sweep_epsilon))]
    x, y = curve(epsilon({"": report}))
    assert tuple(x) == sides[0].sweep_epsilon
    assert y == [count / (10 * len(sides)) for count in counts]
    assert y[x.index(0.5)] == sum(row.found for row in report.rows) / sum(row.examined for row in report.rows)


def test_both_sides_count_at_the_reports_own_k(both_sides):
    ax = epsilon({"": both_sides})
    assert both_sides.rows[0].intruders[0].k == 4
    values = [value for row in both_sides.rows for side in row.intruders for value in side.similarity]
    assert curve(ax)[1][-1] == pytest.approx(sum(value < 0.95 for value in values) / len(values))
    assert ax.get_ylabel() == "share of top-4 directions below ε"


def test_an_interval_is_a_shade_down_to_what_is_certain(report):
    """Where every similarity may be as large as 0.45, nothing is certain below it and all is as it was above."""
    rows = [
        replace(row, intruders=tuple(replace(s, similarity_bound=tuple(max(v, 0.45) for v in s.similarity)) for s in row.intruders))
        for row in report.rows
    ]  # fmt: skip
    ax = epsilon({"": replace(report, rows=tuple(rows))})
    assert curve(ax) == curve(epsilon({"": report}))
    (shade,) = [item for item in ax.collections if item.get_label() == "_open"]
    lower = {round(x, 2): y for x, y in shade.get_paths()[0].vertices[: len(curve(ax)[0])]}
    assert max(y for x, y in lower.items() if x <= 0.45) == 0
    assert not [item for item in epsilon({"": report}).collections if item.get_label() == "_open"]


def test_a_matrix_smaller_than_k_has_fewer_directions(one_matrix):
    side = one_matrix.rows[0].intruders[0]
    assert curve(epsilon({"": one_matrix}))[1][-1] == side.sweep[side.sweep_k.index(10)][-1] / 6


def test_the_threshold_used_and_what_chance_gives_are_marked(report):
    ax = epsilon({"": report})
    assert [list(line.get_xdata()) for line in ax.lines if line.get_linestyle() == "--"] == [[0.5, 0.5]]
    ticks = {float(segment[0][0]) for segment in ax.collections[0].get_segments()}
    assert ticks == {row.intruders[0].null for row in report.rows}
    assert {text.get_text() for text in ax.texts} == {"ε = 0.5", "chance"}


def test_one_line_a_model_and_none_for_a_model_without_rows(comparison):
    ax = epsilon(comparison.models)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["small", "_large $x$"]
    assert curve(ax, 0) != curve(ax, 1)


def test_one_report_needs_no_legend_and_none_measured_says_so(report, unchanged):
    assert epsilon({"full": report}).get_legend() is None
    ax = epsilon({"": unchanged})
    assert not ax.lines
    assert [text.get_text() for text in ax.texts] == ["no matrix was measured"]
