"""An order that no number contradicts: proven intervals, alike numbers, and groups that cannot be made smaller."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from spectra.analysis.nearness import Number, ahead, places

counts = st.integers(0, 40)


def number(*values, target=0, widths=None):
    low = np.array(values, dtype=float)
    return Number("count", low, low + (np.array(widths) if widths else 0), (target, target))


@st.composite
def several(draw):
    models, many = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    row = st.lists(counts, min_size=models, max_size=models)
    return [number(*draw(row), target=draw(counts), widths=draw(row)) for _ in range(many)]


def test_the_nearer_to_the_target_is_nearer_from_either_side():
    assert number(10, 60, target=30).nearer().tolist() == [[False, True], [False, False]]
    assert number(10, 50, target=30).nearer().sum() == 0  # as far below as above


@pytest.mark.parametrize(("values", "apart"), [((10, 10.9), False), ((10, 11), True), ((0, 0), False), ((0, 1), True)])
def test_numbers_within_a_tenth_are_alike(values, apart):
    assert number(*values).nearer()[0, 1] == apart


def test_intervals_that_overlap_decide_nothing():
    assert not number(10, 20, widths=(15, 15)).nearer().any()
    assert number(10, 20, widths=(5, 5)).nearer()[0, 1]


def test_one_number_against_many_makes_a_tie():
    agreeing = [number(1, 5), number(2, 9), number(0, 3)]
    assert ahead(agreeing)[0, 1]
    assert not ahead([*agreeing, number(7, 4)]).any()


def test_a_model_tied_with_both_of_an_ordered_pair_joins_them():
    """The first is before the second; the third is before neither and behind neither: all share one place."""
    before = ahead([number(1, 5, 3), number(2, 9, 1), number(3, 9, 20)])
    assert before[0, 1]
    assert places(before, "abc") == [[0, 2, 1]]


@given(several())
def test_each_of_a_group_is_before_each_of_the_later_and_no_group_can_be_cut(numbers):
    before = ahead(numbers)
    assert not (before & before.T).any()
    groups = places(before, [str(at) for at in range(len(before))])
    assert sorted(at for group in groups for at in group) == list(range(len(before)))
    for at, group in enumerate(groups):
        later = [one for rest in groups[at + 1 :] for one in rest]
        assert before[np.ix_(group, later)].all()
        for cut in range(1, len(group)):
            assert not before[np.ix_(group[:cut], group[cut:])].all()


@given(several(), st.randoms(use_true_random=False))
def test_the_order_in_which_models_are_given_does_not_matter(numbers, random):
    names = [f"m{at}" for at in range(len(numbers[0].low))]
    shuffled = random.sample(range(len(names)), len(names))
    again = [one._replace(low=one.low[shuffled], high=one.high[shuffled]) for one in numbers]
    first = [[names[at] for at in group] for group in places(ahead(numbers), names)]
    moved = [names[at] for at in shuffled]
    assert [[moved[at] for at in group] for group in places(ahead(again), moved)] == first
