"""A decomposition with its vectors in half precision, and a bound on how far that moves them."""

import math
from dataclasses import replace

import torch

from spectra.engine.decomposition import SVD

ABOVE = 1024  # smaller dimension of a matrix up to which halving its vectors saves too little to lose digits for
_MOST = 1e-3  # error of the vectors, and so of every cosine with them, up to which float16 will do
_PRODUCTS, _PROBES = 17, 8  # odd; each probe makes the bound ten times less likely to be wrong


def halved(svd: SVD, above: int = ABOVE) -> SVD:
    """Return a decomposition with its vectors in float16 where they stay within 1e-3, else as it is.

    above : smaller dimension of the matrix above which that is done. The interval of a similarity widens with it
    (see `basis`): at 160 x 160 it would leave 30 of 35 matrices of the demo's LoRA at rank 2 undecided, not 0.

    `vector_error` grows by `max(||U16 - U||, ||V16 - V||)`, spectral norms: no vector, so no cosine of a unit
    vector with one, moves by more. A unit vector in float16 is off by at most 2^-11; in bfloat16, which is not
    used, by 2^-8.

    Notes
    -----
    34 products with m x p and p x n matrices and 8 columns; memory of two matrices beside the result.
    """
    if min(svd.shape) <= above:
        return svd
    U, Vh = svd.U.half(), svd.Vh.half()
    off = max(norm_bound(U.to(svd.U) - svd.U), norm_bound(Vh.to(svd.Vh) - svd.Vh))
    if off > _MOST:
        return svd
    method = f"{svd.method}, vectors kept in float16"
    return replace(svd, U=U, Vh=Vh, method=method, vector_error=svd.vector_error + off)


def norm_bound(matrix: torch.Tensor) -> float:
    """Bound the spectral norm of a matrix from above; a bound that is too small has a chance of 1e-8.

    For normal vectors `w_1 .. w_8`, `||C|| <= 10 sqrt(2 / pi) max_i ||C w_i||` but for a chance of `10^-8`; here
    `C = (E E^T)^8 E`, whose norm is `||E||^17`. 1.27 times too large for the rounding of a 4096 x 4096 basis.

    References
    ----------
    Halko, Martinsson and Tropp 2011, arXiv:0909.4061, Lemma 4.1.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(_PROBES, matrix.shape[1], generator=generator, dtype=torch.float64).to(matrix)
    logarithm = math.log(10 * math.sqrt(2 / math.pi))
    for product in range(_PRODUCTS):
        x = x @ matrix if product % 2 else x @ matrix.T
        size = float(torch.linalg.vector_norm(x, dim=1).amax())
        if size == 0:
            return 0.0
        logarithm += math.log(size)
        x = x / size
    return math.exp(logarithm / _PRODUCTS)
