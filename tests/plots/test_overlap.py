"""The map of two updates shows their phi, and blocks stand in order with chance beside them."""

from dataclasses import replace

import numpy as np

from spectra.plots.overlap import overlap_by_block, overlap_map


def test_the_map_is_phi_with_the_first_update_upwards(overlapping):
    row = overlapping.most_alike
    for ax, side in zip(overlap_map(row, labels=("one", "two")).axes, row.sides, strict=False):
        (image,) = ax.images
        assert np.array_equal(image.get_array(), np.array(side.phi))
        assert image.get_array().shape == row.rank
        assert image.origin == "lower"
        assert (image.norm.vmin, image.norm.vmax) == (0, 1)
        assert "of two" in ax.get_xlabel()
        assert "of one" in ax.get_ylabel()
        assert f"{side.shared:.2f}" in ax.get_title()


def test_a_row_that_was_not_compared_says_why(overlapping):
    blank = replace(overlapping.rows[0], status="zero_update", reason="the update of the first model is zero", sides=())
    assert "is zero" in overlap_map(blank).axes[0].texts[0].get_text()


def test_blocks_stand_in_order_beside_chance(overlapping):
    lines = overlap_by_block(overlapping).lines
    for shared, chance, side in zip(lines[::2], lines[1::2], ("left", "right"), strict=True):
        told = overlapping.by_block(side)
        assert shared.get_ydata().tolist() == [value for _, value, _ in told]
        assert chance.get_ydata().tolist() == [value for _, _, value in told]
        assert chance.get_linestyle() == ":"
    assert [label.get_text() for label in overlap_by_block(overlapping).get_xticklabels()] == ["0", "1", "2", "other"]


def test_without_updates_there_is_nothing_to_draw(overlapping):
    ax = overlap_by_block(replace(overlapping, rows=()))
    assert "no matrix" in ax.texts[0].get_text()
