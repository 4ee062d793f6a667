r"""GraLoRA (arXiv:2505.20355): k x k blocks of dW, each with factors of rank r / k of its own.

With q = floor(r / k) and s = alpha / (r + hybrid rank), the block of outputs m and inputs n is
`s B[m][n q : (n + 1) q]^T A[n][:, m q : (m + 1) q]^T`; the hybrid form adds `s B_general A_general`.
"""

import torch

from spectra.errors import MatchError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix, called, never
from spectra.text import listing, show
from spectra.updates import Dense, LowRank, Sum, Update


def rank(parts: Shapes, config: AdapterConfig) -> int:
    """Return the rank that all blocks together may use: k r, and that of the hybrid part."""
    k, _, r = parts["gralora_A"]
    return k * r + parts.get("gralora_A_general", (0,))[0]


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int]:
    """Return the `[out, in]` shape of all blocks together."""
    A, B = parts.get("gralora_A"), parts.get("gralora_B")
    if A is None or B is None:
        raise MatchError(f"'{show(module)}': one of its factors is missing ({listing(parts)} is there).")
    if len(A) != 3 or len(B) != 3 or A[0] != B[0] or A[2] != B[1] or A[2] % A[0]:
        raise MatchError(f"'{show(module)}': its factors A {list(A)} and B {list(B)} do not fit together.")
    return B[0] * B[2], A[0] * A[1]


def update(target: Target) -> Update:
    """Return dW, in factors where k r is below both dimensions."""
    A, B = target.part("gralora_A"), target.part("gralora_B")
    (k, _, r), q = A.shape, A.shape[2] // A.shape[0]
    hybrid = target.parts.get("gralora_A_general")
    scaling = target.config.number_in("alpha", 64) / (r + (0 if hybrid is None else len(hybrid)))
    inner = A.reshape(k, -1, k, q).permute(2, 0, 3, 1)  # [m, n, q, in / k]
    outer = B.reshape(k, k, q, -1) * scaling  # [m, n, q, out / k]
    blocks = _factored(outer, inner) if k * r < min(target.shape) else Dense(_dense(outer, inner))
    if hybrid is None:
        return blocks
    return Sum((blocks, LowRank(target.part("gralora_B_general") * scaling, hybrid.float())))


def _factored(outer: torch.Tensor, inner: torch.Tensor) -> LowRank:
    k, _, q, height = outer.shape
    B, A = outer.new_zeros(k, height, k, k, q), outer.new_zeros(k, k, q, k, inner.shape[3])
    for block in range(k):
        B[block, :, block] = outer[block].permute(2, 0, 1)
        A[:, block, :, block] = inner[:, block]
    return LowRank(B.reshape(k * height, -1), A.reshape(k * k * q, -1))


def _dense(outer: torch.Tensor, inner: torch.Tensor) -> torch.Tensor:
    blocks = outer.transpose(2, 3) @ inner  # [m, n, out / k, in / k]
    return blocks.transpose(1, 2).reshape(blocks.shape[0] * blocks.shape[2], -1)


GRALORA = Family(
    method="GRALORA",
    parse=by_suffix("gralora_[AB](?:_general)?"),
    update=update,
    label=called("GraLoRA"),
    rank=rank,
    fits=fits,
    needs_base=never,
)
