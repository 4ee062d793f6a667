"""Walk matrices a few rows at a time in float64, so that exact sums cost no second copy of the matrix."""

from collections.abc import Iterator

import torch

_ELEMENTS = 2**18


def row_blocks(*matrices: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    """Yield the same rows of matrices of one shape as float64 blocks of at most about 2^18 entries."""
    m, n = matrices[0].shape
    step = max(1, _ELEMENTS // max(n, 1))
    for first in range(0, m, step):
        yield tuple(matrix[first : first + step].double() for matrix in matrices)
