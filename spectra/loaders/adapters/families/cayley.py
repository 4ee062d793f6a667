"""Rotations from small square blocks: the Cayley map of their skew parts, exact and as PEFT's series, in float64."""

from collections.abc import Sequence

import torch


def skew(M: torch.Tensor) -> torch.Tensor:
    """Return `(M - M^T) / 2` of blocks [count, b, b]."""
    return (M - M.mT) / 2


def skew_of_triangle(entries: torch.Tensor, size: int) -> torch.Tensor:
    """Return the skew blocks whose upper triangles, row by row, are the rows of `entries` [count, b (b - 1) / 2]."""
    rows, columns = torch.triu_indices(size, size, 1)
    Q = entries.new_zeros(len(entries), size, size)
    Q[:, rows, columns] = entries
    return Q - Q.mT


def capped(M: torch.Tensor, limit: float) -> torch.Tensor:
    """Return blocks scaled down to a Frobenius norm of at most `limit` each, as constrained OFT keeps them."""
    norm = torch.linalg.vector_norm(M, dim=(1, 2), keepdim=True)
    return torch.where(norm > limit, M * (limit / norm), M)


def cayley(S: torch.Tensor) -> torch.Tensor:
    """Return `(I - S) (I + S)^-1` of skew blocks [count, b, b]: orthogonal matrices."""
    eye = torch.eye(S.shape[-1], dtype=S.dtype)
    R: torch.Tensor = torch.linalg.solve(eye + S, eye - S, left=False)
    return R


def series(S: torch.Tensor, coefficients: Sequence[float]) -> torch.Tensor:
    """Return `I + c_1 S + c_2 S^2 + ...` of blocks [count, b, b]."""
    R = torch.eye(S.shape[-1], dtype=S.dtype).expand_as(S).clone()
    power = None
    for coefficient in coefficients:
        power = S if power is None else power @ S
        R += coefficient * power
    return R
