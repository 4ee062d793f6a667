"""The map shows the cosines as they are, and marks exactly the columns below epsilon."""

import numpy as np
import pytest

from spectra.analysis.similarity_map import SimilarityMap
from spectra.plots.similarity import similarity, similarity_panels
from spectra.plots.style import ALARM


def a_map(n_base: int = 5, n_tuned: int = 4, side: str = "left") -> SimilarityMap:
    values = np.random.default_rng(0).random((n_base, n_tuned)).astype(np.float32)
    best = np.array([0.9, 0.4, 0.5, 0.1], dtype=np.float32)[:n_tuned]
    return SimilarityMap("layer.0.w.weight", side, values, best, 0.3)


def strip_of(ax):
    return ax.child_axes[0]


def test_rows_are_base_vectors_and_columns_tuned_ones():
    found = a_map()
    ax = similarity(found)
    assert np.array_equal(ax.images[0].get_array(), found.values)
    assert ax.images[0].get_extent() == [0.5, 4.5, 5.5, 0.5]
    assert ax.images[0].get_clim() == (0, 1)
    assert ax.get_xlabel().startswith("tuned output")
    assert ax.get_ylabel().startswith("base output")


@pytest.mark.parametrize(("epsilon", "below"), [(0.5, [2, 4]), (0.45, [2, 4]), (0.05, []), (1.0, [1, 2, 3, 4])])
def test_intruders_are_the_columns_whose_best_match_is_below_epsilon(epsilon, below):
    strip = strip_of(similarity(a_map(), epsilon=epsilon))
    marked = [line for line in strip.lines if line.get_color() == ALARM]
    assert [list(line.get_xdata()) for line in marked] == [below]
    assert strip.get_title(loc="right") == f"{len(below)} of these 4 below {epsilon:g}"


def test_the_strip_shows_every_best_match_with_threshold_and_chance():
    found = a_map()
    strip = strip_of(similarity(found))
    drawn = sorted(pair for line in strip.lines[:2] for pair in zip(line.get_xdata(), line.get_ydata(), strict=True))
    assert drawn == list(zip([1, 2, 3, 4], found.best, strict=True))
    assert [line.get_ydata()[0] for line in strip.lines[2:]] == [0.5, 0.3]


def test_panels_put_every_model_on_one_scale(comparison):
    figure = similarity_panels(comparison.maps)
    panels = [ax for ax in figure.axes if ax.images]
    assert [strip_of(ax).get_title(loc="left") for ax in panels] == ["small", "_large $x$"]
    for ax, found in zip(panels, comparison.maps.values(), strict=True):
        assert np.array_equal(ax.images[0].get_array(), found.values)
        assert ax.images[0].get_clim() == (0, 1)
    assert figure.get_suptitle() == comparison.matrix


@pytest.mark.parametrize("models", [1, 2, 5])
def test_any_number_of_models_fits(models):
    figure = similarity_panels({f"model {number}": a_map(side="right") for number in range(models)})
    assert sum(bool(ax.images) for ax in figure.axes) == models
    assert figure.get_figwidth() == (3.4 if models == 1 else 7.0)
    assert figure.get_supxlabel().startswith("tuned input")


@pytest.mark.parametrize(("n_base", "n_tuned"), [(1, 1), (0, 0)])
def test_tiny_and_empty_maps_draw(n_base, n_tuned):
    ax = similarity(a_map(n_base, n_tuned))
    assert len(ax.images) == min(n_base, 1)
