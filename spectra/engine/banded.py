"""The singular values alone of a large dense matrix, by reduction to a band of products.

LAPACK's way to the values goes through matrix-vector products, half of which read the whole matrix and are
bound by memory. Here blocks of Householder reflectors from both sides leave an upper band of width 64 (matrix
products, in the precision of the matrix), and the values are those of the band: `B^T B` has the same width,
is formed in float64, and LAPACK takes the eigenvalues of a band in `O(n^2 width)`.
"""

import scipy.linalg
import torch

_WIDTH = 64  # 32 makes the products slow, 96 the band
_TALL = 5 / 3  # rows a column from which a QR first costs less (Chan 1982)
_NO_REFLECTION = 1e30


def singular_values(A: torch.Tensor) -> torch.Tensor:
    """Return all singular values of A [m, n], float32 or float64, descending, in float64. A is overwritten.

    Notes
    -----
    About `8/3 n^3` operations in products for a square matrix, and memory for a few blocks of its columns
    beside it. The error is that of any backward stable method: a few eps of A's precision times `sigma_1`, and
    not less than 1e-8 of it, however small the value.

    References
    ----------
    Grosser and Lang 1999, Parallel Computing 25 (two-stage reduction); Puglisi 1992, SIAM J. Sci. Stat.
    Comput. 13 (the triangular factor of a block of reflectors).
    """
    A = A.mT if A.shape[0] < A.shape[1] else A
    if A.shape[0] > _TALL * A.shape[1]:
        A = torch.linalg.qr(A, mode="r").R
    squares = scipy.linalg.eigvals_banded(_squared(_reduced(A)).numpy(), check_finite=False)
    return torch.from_numpy(squares).flip(0).clamp_min(0).sqrt()


def _reduced(A: torch.Tensor) -> torch.Tensor:
    """Reduce A [m, n], m >= n, in place; return its upper band by diagonals, `band[d, i] = B[i, i + d]`."""
    n = A.shape[1]
    band = torch.zeros(_WIDTH + 1, n, dtype=torch.float64)
    for first in range(0, n, _WIDTH):
        width = min(_WIDTH, n - first)
        columns = A[first:, first : first + width]
        V, T, R = _reflectors(columns)
        _keep(band, R, first, 0)
        if first + width == n:
            break
        rest = A[first:, first + width :]
        X = rest.mT @ (V @ T)  # the reflectors from the left turn `rest` into `rest - V X^T`
        W, T, R = _reflectors((rest[:width] - V[:width] @ X.mT).mT)
        _keep(band, R.mT, first, width)
        below, V, WT = rest[width:], V[width:], W @ T
        Y = below @ WT - V @ (X.mT @ WT)
        below.addmm_(torch.cat([V, Y], 1), torch.cat([X, W], 1).mT, alpha=-1)
    return band


def _reflectors(P: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return V, T and R with `(I - V T^T V^T) P = [R; 0]`, for P [r, c]; of a wide P as many as it has rows."""
    packed, tau = torch.geqrf(P)
    q = len(tau)
    V = packed[:, :q].tril(-1)
    V.diagonal().fill_(1)
    inverse = (V.mT @ V).double().triu(1)
    inverse.diagonal().copy_(torch.where(tau == 0, _NO_REFLECTION, 1 / tau.double()))
    T = torch.linalg.solve_triangular(inverse, torch.eye(q, dtype=torch.float64), upper=True)
    return V, T.to(P.dtype), packed[:q].triu()


def _keep(band: torch.Tensor, block: torch.Tensor, row: int, ahead: int) -> None:
    """Put a block that starts at [row, row + ahead] of the matrix into the band, as far as the band reaches."""
    height, width = block.shape
    for offset in range(max(1 - height, -ahead), min(width, len(band) - ahead)):
        start = row + max(0, -offset)
        values = block.diagonal(offset)
        band[ahead + offset, start : start + len(values)] = values


def _squared(band: torch.Tensor) -> torch.Tensor:
    """Return `B^T B` in LAPACK's upper form, `[width + j - k, k]`, of an upper band given by diagonals."""
    n = band.shape[1]
    band = band[:n]
    columns = torch.zeros_like(band)  # [d, k] = B[k - d, k]
    for d in range(len(band)):
        columns[d, d:] = band[d, : n - d]
    gram = torch.zeros_like(band)
    for apart in range(len(band)):
        gram[-1 - apart, apart:] = (columns[: len(band) - apart, : n - apart] * columns[apart:, apart:]).sum(0)
    return gram
