"""Every update stands at its block with its own ratio."""

from dataclasses import replace

import pytest

from spectra.plots.update_size import update_size


def points(line):
    return list(zip(line.get_xdata(), line.get_ydata(), strict=True))


def names(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def ticks(ax):
    return [label.get_text() for label in ax.get_xticklabels()]


def test_one_line_a_module_over_the_blocks_and_the_rest_set_off(report):
    ax = update_size({"": report})
    assert names(ax) == ["self_attn.q_proj", "mlp.up_proj", "outside the blocks"]
    for line, name in zip(ax.lines, names(ax)[:2], strict=False):
        rows = [row for row in report.rows if row.place.module == name]
        assert points(line) == [(row.place.block, row.norm.ratio) for row in rows]
        assert line.get_linestyle() == "-"
    assert points(ax.lines[2]) == [(3.8, report.rows[-1].norm.ratio)]
    assert ticks(ax) == ["0", "1", "2", "other"]
    assert ax.get_yscale() == "log"


def test_several_models_have_a_colour_each_beside_each_other(comparison):
    ax = update_size(comparison.models)
    assert names(ax) == ["small", "_large $x$"]
    for line, name in zip(ax.lines, names(ax), strict=True):
        assert sorted(line.get_ydata()) == sorted(row.norm.ratio for row in comparison.models[name].rows)
        assert line.get_linestyle() == "None"
    assert {round(x - y, 3) for x, y in zip(*(sorted(line.get_xdata()) for line in ax.lines), strict=True)} == {-0.35}


def test_a_model_without_blocks_is_drawn_module_by_module(report, renamed):
    ax = update_size({"": renamed(report, ["fc1.weight", "fc2.weight", "head.weight"])})
    assert ticks(ax) == ["fc1", "fc2", "head"]
    assert [points(line) for line in ax.lines] == [
        [(place, report.rows[place].norm.ratio) for place in range(3)],
    ]


def test_stacks_follow_each_other_and_are_named(report, renamed):
    ax = update_size({"": renamed(report, ["encoder.block.0.q", "encoder.block.1.q", "decoder.block.0.q"])})
    assert ticks(ax) == ["encoder.block 0", "encoder.block 1", "decoder.block 0"]


@pytest.mark.parametrize("ratio", [float("inf"), 0.0])
def test_an_update_without_a_ratio_is_left_out(report, ratio):
    broken = replace(report.rows[0], norm=replace(report.rows[0].norm, ratio=ratio))
    ax = update_size({"": replace(report, rows=(broken, *report.rows[1:]))})
    assert sum(len(line.get_xdata()) for line in ax.lines) == len(report.rows) - 1
    ax = update_size({"": replace(report, rows=(broken,))})
    assert [text.get_text() for text in ax.texts] == ["no update with a relative size"]


def test_a_deep_model_is_wide_and_names_only_some_blocks(report, renamed):
    deep = renamed(report, [f"m.layers.{block}.{name}" for block in range(80) for name in ("q", "k", "v", "o")])
    ax = update_size({"": deep})
    assert ax.figure.get_figwidth() == 7.0
    assert len(ticks(ax)) <= 13
    assert ticks(ax)[0] == "0"
