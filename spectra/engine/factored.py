"""The factored path: the exact decomposition of `B @ A` from its factors, without forming it.

With thin QR `B = Qb Rb` and `A^T = Qa Ra`, `B A = Qb (Rb Ra^T) Qa^T`: the decomposition of the small
core `Rb Ra^T` is that of the product.
"""

import torch

from spectra.engine.decomposition import SVD
from spectra.engine.dense import require_finite
from spectra.engine.dense import svd as dense_svd


def svd(B: torch.Tensor, A: torch.Tensor) -> SVD:
    """Decompose `B @ A` exactly from B [m, r] and A [r, n], in float64.

    Returns
    -------
    SVD with `q = min(m, n, r)` values. Invariant under `B -> B Q, A -> Q^-1 A`.

    Notes
    -----
    `O((m + n) r^2)` work. The residual is that of the core; the error against the dense product is a
    few units of float64 rounding.
    """
    B, A = B.detach(), A.detach()
    require_finite(B, "the factor B")
    require_finite(A, "the factor A")
    Qb, Rb = torch.linalg.qr(B.double())
    Qa, Ra = torch.linalg.qr(A.double().T)
    core = dense_svd(Rb @ Ra.T)
    U, Vh = Qb @ core.U, core.Vh @ Qa.T
    return SVD(U, core.S, Vh, core.residual, core.orthogonality, "factored float64")
