"""The basis path: with the base decomposed once, everything about an update in O(m n r) + O(n r) a step.

In the base's singular basis `P = U0^T B`, `Q = V0^T A^T`; what B and A^T have outside the base's ranges is kept:
`Qb Rb = qr(B - U0 P)`, `Qa Ra = qr(A^T - V0 Q)`. Then

    [U0 Qb]^T W [V0 Qa] = blkdiag(diag(S0), 0) + [P; Rb] [Q; Ra]^T,

a diagonal plus rank r: its leading triplets cost O(n r) a product, and the cosines with every base direction
are their first p coordinates. That no leading value is missed is proven by an inertia count.

Where the base's vectors were kept in fewer bits, `U0 + E` and `V0 + F` stand for U0 and V0. The rows above come from
`T = [U0^T; 1 - U0 U0^T]`, an isometry, which is then off by at most `d = sqrt(|E|^2 + (2 |E| + |E|^2)^2)` (by |E|
where U0 is square), so the operator is by `(d_U + d_V + d_U d_V) |dW|`, and vector j by that over its gap (Wedin).
"""

import math
from dataclasses import dataclass

import torch

from spectra.engine.decomposition import SVD
from spectra.engine.krylov import Diagonal
from spectra.engine.leading import Leading, leading, over_clusters
from spectra.engine.resemblance import Resemblance, Side, interval, rounding_of

_AHEAD = 4  # coordinate axes beyond k that the space starts from
_UPDATE_ROWS = 10  # leading directions of the update that it starts from
_FIRST, _FIRST_CUDA = 2, 5  # steps before the first look: a look costs more than some steps on CUDA
_BESIDE = 1e-6  # relative distance below a value at which the count is taken


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Updates of one base in its singular basis. operator : diag(S0) + P Q^T, batched over g updates, float64.

    base_values : S0 [p]; shape : (m, n) of the weights; rounding : of the base's decomposition, in its values;
    vector_error : of its vectors, as in `SVD`.
    Scaling an update scales P alone: see `scaled`.
    """

    operator: Diagonal
    base_values: torch.Tensor
    shape: tuple[int, int]
    rounding: float
    vector_error: float = 0.0

    def scaled(self, factors: torch.Tensor) -> "Coordinates":
        """Return one update at several scales: P times each of factors [g]."""
        P, Q = self.operator.P[:1], self.operator.Q[:1]
        many = Diagonal(self.operator.values, factors[:, None, None].to(P) * P, Q.expand(len(factors), -1, -1))
        return Coordinates(many, self.base_values, self.shape, self.rounding, self.vector_error)


def coordinates(base: SVD, B: torch.Tensor, A: torch.Tensor) -> Coordinates:
    """Express updates `B A` of one base in its singular basis.

    base : full SVD of W0, all p vectors, float16 to float64 on any device. B : [g, m, r], A : [g, r, n].
    Cost: one product `U0^T [B_1 .. B_g]` and one with V0, shared by all g.
    """
    P, Rb = _inside(base.U, B)
    Q, Ra = _inside(base.Vh.T, A.mT)
    operator = Diagonal(base.S.double(), torch.cat([P, Rb], 1).double(), torch.cat([Q, Ra], 1).double())
    return Coordinates(operator, base.S.double(), base.shape, rounding_of(base), base.vector_error)


def _inside(vectors: torch.Tensor, factor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the coordinates of a factor [g, m, r] on orthonormal columns [m, p], and the triangle of what is left.

    A complete basis (p = m) leaves nothing: what a difference would show there is rounding.
    """
    g, m, r = factor.shape
    together = factor.transpose(0, 1).reshape(m, g * r).to(vectors)
    inside = vectors.T @ together
    if vectors.shape[1] == m:
        return inside.reshape(-1, g, r).transpose(0, 1), inside.new_zeros(g, 0, r)
    left = (together - vectors @ inside).reshape(m, g, r).transpose(0, 1)
    triangle = torch.linalg.qr(left.double(), mode="r").R if not left.is_cuda else _cholesky_triangle(left)
    return inside.reshape(-1, g, r).transpose(0, 1), triangle.to(inside)


def _cholesky_triangle(left: torch.Tensor) -> torch.Tensor:
    """The triangle of a QR by the Gram matrix in float64: one batched kernel where QR is one a matrix."""
    wide = left.double()
    values, vectors = torch.linalg.eigh(wide.mT @ wide)
    triangle: torch.Tensor = values.clamp_min(0).sqrt()[..., None] * vectors.mT
    return triangle


def top(coordinates: Coordinates, k: int) -> Leading:
    """Find the leading k triplets of every W, as coordinates, and prove that none is missed.

    Notes
    -----
    The space starts from the leading coordinate axes and the update's own directions. Where the inertia count
    says that a value is missing, it starts again from random rows.
    """
    operator = coordinates.operator
    flipped = operator.shape[1] > operator.shape[2]
    start = _start(operator.transposed if flipped else operator, k)
    found = leading(operator, k, start=start, first=_FIRST_CUDA if start.is_cuda else _FIRST)
    exact = count_above(operator, found.S[:, k - 1]) <= k
    if bool(exact.all()):
        return _with_missed(found, torch.zeros(len(exact), dtype=torch.float64))
    again = leading(operator, k)
    exact = count_above(operator, again.S[:, k - 1]) <= k
    return _with_missed(again, torch.where(exact.cpu(), 0.0, again.missed))


def _with_missed(found: Leading, missed: torch.Tensor) -> Leading:
    return Leading(found.U, found.V, found.S, found.residual, found.error, found.label, missed, found.steps)


def _start(operator: Diagonal, k: int) -> torch.Tensor:
    """Rows to start from: leading axes of the base, and the strongest directions of the update. [g, b, m]"""
    g, m, _ = operator.shape
    axes = torch.eye(min(k + _AHEAD, m), m, dtype=operator.P.dtype, device=operator.P.device).expand(g, -1, -1)
    gram = operator.Q.mT @ operator.Q
    _, vectors = torch.linalg.eigh(gram.cpu())
    mixed = operator.P @ vectors[..., -_UPDATE_ROWS:].to(operator.P)
    room = min(max(0, m // 2 - axes.shape[1]), mixed.shape[2])
    return torch.cat([axes, mixed[..., mixed.shape[2] - room :].mT], 1)


def count_above(operator: Diagonal, values: torch.Tensor) -> torch.Tensor:
    """Count the singular values of diag(S) + P Q^T above a little below each value [g], exactly: by inertia.

    For `H = [[0, W], [W^T, 0]]` and t > 0 not an eigenvalue, Sylvester's law and Haynsworth's give
    `n_+(H - t) = n_+(D - t) + n_-(C^-1 + F^T (D - t)^-1 F) - n_-(C^-1)`, D the part of S, F = blkdiag(P, Q),
    C^-1 = [[0, 1], [1, 0]] of size 2 r, so that n_-(C^-1) = r. O((m + n) r^2).
    """
    t = (values.to(operator.P) * (1 - _BESIDE))[:, None]
    S, P, Q, p = operator.values, operator.P, operator.Q, len(operator.values)
    off = S.square() - t.square()  # [g, p]
    off = torch.where(off == 0, torch.finfo(off.dtype).eps * t.square(), off)
    own, across = t / off, S / off  # (D - t)^-1 is [[t, S], [S, t]] / (S^2 - t^2) on each pair, -1 / t elsewhere
    outer = -1 / t
    PP = (P[:, :p].mT * own[:, None]) @ P[:, :p] + outer[..., None] * (P[:, p:].mT @ P[:, p:])
    QQ = (Q[:, :p].mT * own[:, None]) @ Q[:, :p] + outer[..., None] * (Q[:, p:].mT @ Q[:, p:])
    PQ = (P[:, :p].mT * across[:, None]) @ Q[:, :p]
    one = torch.eye(P.shape[2], dtype=P.dtype, device=P.device)
    small = torch.cat([torch.cat([PP, PQ + one], 2), torch.cat([PQ.mT + one, QQ], 2)], 1).cpu()
    negative = torch.linalg.eigvalsh(small).lt(0).sum(1)
    above: torch.Tensor = S.gt(t).sum(1).cpu() + negative - P.shape[2]
    return above


def resemblances(coordinates: Coordinates, found: Leading, side: Side) -> list[Resemblance]:
    """Read the likeness of the leading tuned directions to every base direction off their coordinates."""
    p = len(coordinates.base_values)
    vectors = (found.U if side == "left" else found.V)[..., :p].double()
    cosines = vectors.abs().mT
    errors = (found.error.cpu() + _blur(coordinates, found)).to(cosines)
    least, most = interval(cosines, coordinates.base_values, coordinates.rounding, errors)
    values = coordinates.base_values.cpu()
    nothing = torch.zeros(cosines.shape[2], dtype=torch.float64)
    parts = zip(cosines.cpu(), least.cpu(), most.cpu(), found.residual.cpu(), found.missed.tolist(), strict=True)
    return [
        Resemblance(side, coordinates.shape, own, values, nothing, low, high, residual, found.steps, missed)
        for own, low, high, residual, missed in parts
    ]


def _blur(coordinates: Coordinates, found: Leading) -> torch.Tensor:
    """Bound how far the inexact vectors of the base move each leading vector. [g, k]"""
    off = coordinates.vector_error
    if not off:
        return torch.zeros_like(found.error).cpu()
    p = len(coordinates.base_values)
    left, right = (off if p == side else math.hypot(off, 2 * off + off**2) for side in coordinates.shape)
    P, Q = coordinates.operator.P, coordinates.operator.Q
    core = (_cholesky_triangle(P) @ _cholesky_triangle(Q).mT).cpu()  # its norm is that of P Q^T
    size = torch.linalg.matrix_norm(core, 2) / ((1 - left) * (1 - right))
    moved = ((left + right + left * right) * size)[:, None]
    # The error of a vector is the residual of its cluster over the gap around it.
    whole = over_clusters((found.residual * found.S[:, :1]).square().cpu(), found.label.cpu())
    gap = whole / found.error.cpu()
    blur: torch.Tensor = moved / (gap - 2 * moved).clamp_min(torch.finfo(gap.dtype).tiny)
    return blur.clamp_max(2.0)


def projections(coordinates: Coordinates, found: Leading) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `U^T B` and `V^T A^T`, U and V the leading vectors of each W and B A its update: [g, k, r] each."""
    return (found.U @ coordinates.operator.P).cpu(), (found.V @ coordinates.operator.Q).cpu()


def moved(coordinates: Coordinates, found: Leading) -> torch.Tensor:
    """Return `u_j . dW v_j` of the leading triplets: [g, k]."""
    left, right = projections(coordinates, found)
    return (left * right).sum(2)
