"""Each cell of the map holds the scale at which its block and module meet the first intruder."""

from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from spectra.plots.critical_scales import critical_scales


def numbers(ax):
    return {tuple(map(int, text.get_position())): text.get_text() for text in ax.texts}


def labels(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_numbers_are_critical_scales(sweep):
    ax = critical_scales(sweep)
    blocks, modules = labels(ax.yaxis), labels(ax.xaxis)
    shade = ax.images[0].get_array()
    for row in sweep.rows:
        line = blocks.index("other" if row.place.block is None else str(row.place.block))
        column = modules.index(row.place.module)
        if row.critical is None:
            assert numbers(ax)[column, line] == ">2"
            assert shade[line, column] == 2
        else:
            assert float(numbers(ax)[column, line]) == pytest.approx(row.critical, abs=0.006)
            assert shade[line, column] == row.critical


def test_the_colours_part_at_one(sweep):
    image = critical_scales(sweep).images[0]
    assert image.norm(1.0) == pytest.approx(0.5)
    below, above = (image.cmap(image.norm(scale)) for scale in (0.3, 3.0))
    assert below[0] > below[2]
    assert above[2] > above[0]


def test_a_cell_of_several_matrices_shows_the_first(sweep):
    first, second, *_ = (row for row in sweep.rows if row.critical is not None)
    names = [f"m.layers.0.experts.{number}.w1.weight" for number in range(2)]
    shared = replace(
        sweep, rows=tuple(replace(row, name=name) for row, name in zip((first, second), names, strict=True))
    )
    assert list(numbers(critical_scales(shared)).values()) == [f"{min(first.critical, second.critical):.2f}"]


def test_what_was_not_swept_is_a_dash_and_what_is_not_there_is_hatched(unswept):
    ax = critical_scales(unswept)
    assert set(numbers(ax).values()) == {"–"}
    assert len(ax.patches) == 5
    assert all(patch.get_hatch() for patch in ax.patches)


def test_no_rows_say_so_on_axes_that_are_given(sweep):
    given = Figure().add_subplot()
    assert critical_scales(replace(sweep, rows=()), ax=given) is given
    assert [text.get_text() for text in given.texts] == ["no matrix was changed"]
