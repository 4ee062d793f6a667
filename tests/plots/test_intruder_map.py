"""Each cell of the map holds the count of its block and module."""

from dataclasses import replace

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from spectra.plots.intruder_map import intruder_map


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def numbers(ax):
    return {tuple(map(int, text.get_position())): text.get_text() for text in ax.texts}


def test_numbers_are_counts_and_shades_their_share(report):
    ax = intruder_map(report)
    blocks, modules = labels(ax.yaxis), labels(ax.xaxis)
    assert blocks == ["0", "1", "2", "other"]
    assert modules == ["self_attn.q_proj", "mlp.up_proj", "lm_head"]
    shade = ax.images[0].get_array()
    assert sum(row.found for row in report.rows) > 0
    for row in report.rows:
        line = blocks.index("other" if row.place.block is None else str(row.place.block))
        column = modules.index(row.place.module)
        assert numbers(ax)[column, line] == str(row.found)
        assert shade[line, column] == row.found / row.examined


def test_cells_without_a_matrix_are_hatched_and_have_no_number(report):
    ax = intruder_map(report)
    hatched = {(int(patch.get_x() + 0.5), int(patch.get_y() + 0.5)) for patch in ax.patches}
    assert hatched == {(0, 3), (1, 3), (2, 0), (2, 1), (2, 2)}
    assert all(patch.get_hatch() for patch in ax.patches)
    assert hatched.isdisjoint(numbers(ax))


def test_a_matrix_that_did_not_change_is_a_dash_without_shade(unchanged):
    ax = intruder_map(unchanged)
    assert set(numbers(ax).values()) == {"–"}
    assert len(ax.patches) == 5
    assert np.ma.getmaskarray(ax.images[0].get_array()).all()


def test_both_sides_are_added_up(both_sides):
    ax = intruder_map(both_sides)
    row = both_sides.rows[0]
    assert row.examined == 8
    assert numbers(ax)[0, 0] == str(row.intruders[0].count + row.intruders[1].count)
    assert ax.images[0].get_array()[0, 0] == row.found / 8


def test_experts_share_a_column_and_stacks_have_lines_of_their_own(report, renamed):
    names = [f"model.layers.0.mlp.experts.{expert}.w1.weight" for expert in range(3)]
    names += ["encoder.block.0.q.weight", "decoder.block.0.q.weight"]
    moe = renamed(report, names)
    ax = intruder_map(moe)
    assert labels(ax.xaxis) == ["mlp.experts.*.w1", "q"]
    assert labels(ax.yaxis) == ["model.layers 0", "encoder.block 0", "decoder.block 0"]
    assert numbers(ax)[0, 0] == str(sum(row.found for row in moe.rows[:3]))


@pytest.mark.parametrize(("blocks", "modules", "readable"), [(80, 12, True), (1, 1, True), (200, 3, False)])
def test_large_and_small_models_stay_on_a_page_with_readable_numbers(report, renamed, blocks, modules, readable):
    names = [f"m.layers.{block}.mlp.part_{chr(97 + module)}" for block in range(blocks) for module in range(modules)]
    ax = intruder_map(renamed(report, names))
    assert len(ax.texts) == (blocks * modules if readable else 0)
    assert all(text.get_fontsize() >= 3.5 for text in ax.texts)
    assert len(labels(ax.yaxis)) <= 100
    width, height = ax.figure.get_size_inches()
    assert width == 3.4
    assert height <= 9


def test_more_modules_than_columns_share_the_last_one(report, renamed):
    many = renamed(report, [f"odd_{number}" for number in range(500)])
    ax = intruder_map(many)
    assert len(labels(ax.xaxis)) == 24
    assert labels(ax.xaxis)[-1] == "other"
    assert sum(map(int, numbers(ax).values())) == sum(row.found for row in many.rows)


def test_a_number_on_a_dark_cell_is_white(report):
    row = report.rows[0]
    full = replace(row.intruders[0], verdict=("new",) * 10)
    ax = intruder_map(replace(report, rows=(replace(row, intruders=(full,)),)))
    assert [to_hex(text.get_color()) for text in ax.texts] == ["#ffffff"]


def test_no_rows_at_all_says_so_on_axes_that_are_given(report):
    given = Figure().add_subplot()
    assert intruder_map(replace(report, rows=()), ax=given) is given
    assert [text.get_text() for text in given.texts] == ["no matrix was changed"]
