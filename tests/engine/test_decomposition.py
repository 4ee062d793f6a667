"""The one result type: its parts belong together, and it says which vectors are well defined."""

import math

import pytest
import torch

from spectra.engine.decomposition import SVD, check
from spectra.engine.dense import svd
from spectra.errors import DecompositionError


def of_values(values):
    S = torch.tensor(values)
    return SVD(torch.eye(5)[:, : len(S)], S, torch.eye(4)[: len(S)], 0.0, 0.0, "by hand")


def test_a_gap_is_the_distance_to_the_nearest_other_value_over_the_value():
    gaps = of_values([8.0, 4.0, 3.0, 3.0]).relative_gaps().tolist()
    assert gaps == [0.5, 0.25, 0.0, 0.0]


def test_a_lone_value_has_an_infinite_gap_and_zero_values_none():
    assert of_values([2.0]).relative_gaps().tolist() == [math.inf]
    assert of_values([2.0, 0.0, 0.0]).relative_gaps().tolist() == [1.0, 0.0, 0.0]
    assert of_values([0.0]).relative_gaps().tolist() == [0.0]
    assert len(of_values([]).relative_gaps()) == 0


def test_vectors_of_a_side_are_columns():
    found = svd(torch.arange(12.0).reshape(4, 3))
    assert found.vectors("left").shape == (4, 3)
    assert torch.equal(found.vectors("right"), found.Vh.T)


def test_parts_of_different_length_are_refused_with_their_shapes():
    with pytest.raises(DecompositionError, match=r"U \[5, 3\], S \[2\] and Vh \[2, 4\] do not belong together"):
        SVD(torch.zeros(5, 3), torch.zeros(2), torch.zeros(2, 4), 0.0, 0.0, "by hand")


def test_check_sees_a_wrong_value_and_a_skew_basis():
    matrix = torch.randn(30, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    assert max(check(matrix, U, S, Vh)) < 1e-14
    assert check(matrix, U, S * 1.001, Vh)[0] == pytest.approx(1e-3, rel=0.2)
    assert check(matrix, U * 1.01, S, Vh)[1] == pytest.approx(0.0201, rel=1e-6)


def test_check_of_a_zero_matrix_is_absolute():
    zero = torch.zeros(3, 3)
    assert check(zero, torch.eye(3), torch.zeros(3), torch.eye(3)) == (0.0, 0.0)
    assert check(zero, torch.eye(3), torch.ones(3), torch.eye(3))[0] > 1
