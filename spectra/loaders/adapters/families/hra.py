"""HRA (arXiv:2405.17484): `W' = W0 H_1 ... H_r`, Householder reflections of the columns of `hra_u [in, r]`.

With U those columns at length one, the product is `I - U T U^T` with T the inverse of `I / 2` plus the strict upper
triangle of `U^T U`; after Gram-Schmidt (`apply_GS`) it is `I - 2 Q Q^T`. Either way dW has rank at most r.
"""

import torch

from spectra.errors import UnsupportedError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.families.stored import shape_of
from spectra.loaders.adapters.family import Family, Fit, Shapes, Target, by_suffix, called
from spectra.text import show
from spectra.updates import LowRank

_DEPENDENT = 1e-6  # of a vector's length: what float32 leaves of one that depends on those before it


def fits(module: str, parts: Shapes, config: AdapterConfig) -> Fit:
    """Return the size of the reflected inputs, those of a convolution flat."""
    return None, shape_of(module, parts, "hra_u")[0]


def rank(parts: Shapes, config: AdapterConfig) -> int:
    """Return the number of reflections."""
    return shape_of("", parts, "hra_u")[1]


def update(target: Target) -> LowRank:
    """Return `dW = W0 (H - I)` in factors. The second is orthonormal, so that reflections that cancel do so exactly."""
    u = target.part("hra_u").double()
    U = u / torch.linalg.vector_norm(u, dim=0)
    Q, C = torch.linalg.qr(U)
    if target.config.flag_in("apply_GS"):
        if U.shape[1] > U.shape[0] or bool((C.diagonal().abs() < _DEPENDENT).any()):
            raise UnsupportedError(
                f"'{show(target.module)}': one of its HRA vectors depends on those before it, and Gram-Schmidt "
                "(apply_GS) then leaves nothing but rounding. Train it, or set apply_GS to false."
            )
        core = 2 * torch.eye(C.shape[0], dtype=C.dtype)
    else:
        inverse = torch.triu(U.T @ U, 1) + torch.eye(U.shape[1], dtype=U.dtype) / 2
        core = C @ torch.linalg.solve_triangular(inverse, C.T, upper=True)
    return LowRank(-(target.base() @ (Q @ core).float()), Q.T.float())


HRA = Family(
    method="HRA",
    parse=by_suffix("hra_u"),
    update=update,
    label=called("HRA"),
    rank=rank,
    fits=fits,
)
