"""The spectrum shows the row's own values, and the rounding floor only where it matters."""

from dataclasses import replace

import pytest

from spectra.plots.spectrum import spectrum


def test_three_curves_hold_the_values_of_the_row(report):
    row = report.rows[0]
    ax = spectrum(row)
    base, tuned, update = ax.lines[:3]
    for line, values in ((base, row.spectrum.base), (tuned, row.spectrum.tuned)):
        assert tuple(line.get_xdata()) == row.spectrum.index
        assert tuple(line.get_ydata()) == values
    kept = [value for value in row.spectrum.update if value > 1e-7 * max(row.spectrum.update)]
    assert len(kept) == 3
    assert list(update.get_ydata()) == kept
    assert ax.get_xscale() == ax.get_yscale() == "log"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["base W₀", "tuned W", "update ΔW"]


def test_values_of_zero_are_left_out(report):
    row = report.rows[0]
    zeros = replace(row.spectrum, update=(2.0, 0.0, 0.0))
    ax = spectrum(replace(row, spectrum=zeros))
    assert list(ax.lines[2].get_ydata()) == [2.0]


@pytest.mark.parametrize(("edge", "drawn"), [(0.5, True), (1e-9, False)])
def test_the_rounding_floor_is_drawn_near_the_data_only(report, edge, drawn):
    row = report.rows[0]
    ax = spectrum(replace(row, floor=replace(row.floor, edge_uneven=edge, edge_alike=0.0, edge_computed=0.0)))
    dashed = [line for line in ax.lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[0] for line in dashed] == ([edge] if drawn else [])


@pytest.mark.parametrize(("computed", "whose"), [(0.1, "float32"), (1.0, "the computation")])
def test_a_floor_names_whose_rounding_it_is(report, computed, whose):
    row = report.rows[0]
    ax = spectrum(replace(row, floor=replace(row.floor, edge_uneven=0.5, edge_computed=computed)))
    assert [text.get_text().partition(",")[0] for text in ax.texts] == [f"rounding floor of {whose}"]


def test_the_title_is_the_name_and_the_expert(report):
    assert spectrum(report.rows[0]).get_title() == "model.layers.0.self_attn.q_proj.weight"
    assert spectrum(replace(report.rows[0], index=7)).get_title().endswith("weight[7]")


def test_a_row_without_measurements_says_so(unchanged):
    ax = spectrum(unchanged.rows[0])
    assert [text.get_text() for text in ax.texts] == ["not measured: zero_update"]
    assert not ax.lines


@pytest.mark.parametrize("scale", [1e-9, 1e-310])
def test_an_update_far_below_the_base_is_drawn_too(report, scale):
    row = report.rows[0]
    tiny = replace(row.spectrum, update=tuple(scale * value for value in (3.0, 2.0, 1.0)))
    ax = spectrum(replace(row, spectrum=tiny, floor=None))
    assert len(ax.lines[2].get_ydata()) == 3
    assert 0 < ax.get_ylim()[0] <= max(3 * scale, 1e-290)
    assert len(ax.get_yticks()) <= 10


def test_a_floor_above_everything_is_in_view(report):
    row = report.rows[0]
    ax = spectrum(replace(row, floor=replace(row.floor, edge_uneven=1e5)))
    assert ax.get_ylim()[1] > 1e5
