"""One point a matrix at its effective rank, one bar at the rank it was given."""

import pytest

from spectra.plots.rank import rank


def names(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def bars(ax):
    return [sorted({float(y) for (_, y), _ in bar.get_segments()}) for bar in ax.collections]


def test_every_matrix_is_a_point_over_its_module(report):
    ax = rank({"": report})
    modules = [label.get_text() for label in ax.get_xticklabels()]
    points = sorted(zip(ax.lines[0].get_xdata(), ax.lines[0].get_ydata(), strict=True))
    assert points == sorted((modules.index(row.place.module), row.rank.effective) for row in report.rows)
    assert ax.get_yscale() == "linear"
    assert ax.get_ylim()[0] == 0
    assert ax.get_legend() is None


def test_the_rank_given_is_a_bar_and_in_the_legend(report, as_adapter):
    ax = rank({"": as_adapter(report, 4)})
    assert bars(ax) == [[4.0]]
    assert names(ax) == ["rank given"]


def test_adapter_and_full_together_make_the_axis_logarithmic(report, as_adapter, comparison):
    ax = rank({"lora": as_adapter(report, 4), "full": comparison.models["_large $x$"]})
    assert ax.get_yscale() == "log"
    assert names(ax) == ["lora", "full", "rank given"]
    left, right = (line.get_xdata() for line in ax.lines[:2])
    assert max(left) - min(left) == pytest.approx(max(right) - min(right))
    assert set(left).isdisjoint(right)
    low, high = ax.get_ylim()
    values = [value for line in ax.lines[:2] for value in line.get_ydata()]
    assert low < min(values) < max(values) < high


def test_two_adapters_stay_on_a_linear_axis(report, as_adapter):
    ax = rank({"r4": as_adapter(report, 4), "r8": as_adapter(report, 8)})
    assert ax.get_yscale() == "linear"
    assert bars(ax) == [[4.0], [8.0]]


def test_models_without_measurements_are_left_out(comparison, unchanged):
    assert names(rank(comparison.models)) == ["small", "_large $x$"]
    assert [text.get_text() for text in rank({"": unchanged}).texts] == ["no matrix was measured"]


def test_five_hundred_modules_fit_a_page(report, renamed):
    ax = rank({"": renamed(report, [f"odd_{number}" for number in range(500)])})
    assert len(ax.get_xticklabels()) == 24
    assert len(ax.lines[0].get_xdata()) == 500
    assert ax.figure.get_figwidth() == 7.0
