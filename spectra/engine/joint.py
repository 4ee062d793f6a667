"""One space for every scale: the leading triplets of `W0 + s dW` at many scales s, the base known.

In the base's singular basis `W_s = D + s P Q^T` (see `basis`), so with `G = D Q`

    W_s W_s^T = D D^T + s (P G^T + G P^T) + s^2 P (Q^T Q) P^T.

D D^T is diagonal. A Krylov space of it that starts from P and G serves every s, and all that points out of the
space is the leak of D D^T alone. The leading coordinate axes stand beside it whole; what remains then has small
values, so that few steps do. At each scale only a small symmetric matrix is left to decompose.
"""

import torch

from spectra.engine import basis
from spectra.engine.basis import Coordinates
from spectra.engine.krylov import Diagonal, Krylov, Ritz
from spectra.engine.leading import Leading, errors

_AXES = 48  # leading axes beyond k that the space holds whole
_FIRST = 2
_SMALL, _FEWEST = 192, 8  # a matrix below this size, or with room for fewer blocks, is taken whole
_ENOUGH = 1e-6  # error of a vector at which the space is large enough: bisecting a scale asks for more than a verdict
_POOR = 1e-3  # error above which a space of its own may do better at a scale
_LARGEST = 512  # dimension up to which the small matrices cost less than a Krylov space at each scale
_PARTS = ("U", "V", "S", "residual", "error", "label", "missed")  # what Leading holds of each scale


def serves(coordinates: Coordinates, k: int) -> bool:
    """Whether the space of this update is small enough to be worth it: ranks up to about 100."""
    return _dimension(coordinates, k) <= _LARGEST


def _dimension(coordinates: Coordinates, k: int) -> int:
    _, m, r = coordinates.operator.P.shape
    return int(m if m < max(_SMALL, k + _AXES + 2 * _FEWEST * r) else k + _AXES + 2 * _FIRST * r)


class Joint:
    """The space of one update. Memory: about `m (k + 2 r steps)` numbers of float64."""

    def __init__(self, coordinates: Coordinates, k: int) -> None:
        self.coordinates, self.k = coordinates, k
        values, P, Q = coordinates.operator.values, coordinates.operator.P[0], coordinates.operator.Q[0]
        m, self.rank = P.shape
        G = torch.zeros_like(P)
        G[: len(values)] = values[:, None] * Q[: len(values)]
        self._squares = torch.cat([values.square(), values.new_zeros(m - len(values))])
        self._factors, self._gram = torch.cat([P, G], 1), (Q.T @ Q).cpu()
        whole = _dimension(coordinates, k) == m
        self._axes = m if whole else k + _AXES
        self._space = None if whole else self._of_the_tail()
        self._project()

    def _of_the_tail(self) -> Krylov:
        """The Krylov space of D D^T on the coordinates after the axes, from those parts of P and G."""
        tail, start = self._squares[self._axes :].sqrt(), self._factors[self._axes :].T[None]
        none = start.new_zeros(1, len(tail), 0)
        self._room = min((_LARGEST - self._axes) // start.shape[1], len(tail) // start.shape[1] - 1)
        space = Krylov(Diagonal(tail, none, none), start.contiguous(), self._room)
        space.grow(_FIRST)
        return space

    def _project(self) -> None:
        """Express D D^T and the factors in the space: the axes, then the Ritz vectors of the tail."""
        diagonal, inside = self._squares[: self._axes].cpu(), self._factors[: self._axes]
        self._leak, self._rounding = diagonal.new_zeros(0, 0), 0.0
        if self._space is not None:
            ritz = self._space.ritz()
            self._tail = self._space.vectors(ritz.vectors.mT)[0]
            diagonal = torch.cat([diagonal, ritz.values[0].cpu()])
            inside = torch.cat([inside, self._tail @ self._factors[self._axes :]])
            self._leak, self._rounding = ritz.leak[0].cpu(), float(ritz.rounding[0])
        inside = inside.cpu()
        P, G = inside[:, : self.rank], inside[:, self.rank :]
        self._still, self._cross, self._square = diagonal.diag(), P @ G.T + G @ P.T, P @ self._gram @ P.T

    def leading(self, scales: torch.Tensor) -> Leading:
        """Find the leading k triplets of `W0 + s dW` at each of scales [g], and prove that none is missed.

        The space grows until every vector of every scale has an error below 1e-6, or cannot be improved. A scale
        at which the inertia count says that a value is missing, or with an error above 1e-3 that more steps could
        mend, is answered by `basis.top`.
        """
        while True:
            ritz = self._ritz(scales)
            error, label = errors(ritz, self.k)
            improvable = (error > _ENOUGH) & (ritz.leak[:, :, : self.k].norm(dim=1) > ritz.rounding[:, None])
            if self._space is None or self._space.steps >= self._room or not bool(improvable.any()):
                break
            self._space.grow(min(max(1, self._space.steps // 2), self._room - self._space.steps))
            self._project()
        S = ritz.values[:, : self.k + 1].clamp_min(0).sqrt()
        scaled = self.coordinates.scaled(scales)
        U = self._vectors(ritz.vectors[:, :, : self.k].mT)
        V = scaled.operator.transposed(U)
        V = V / V.norm(dim=2, keepdim=True).clamp_min(torch.finfo(V.dtype).tiny)
        residual = ritz.residuals()[:, : self.k] / S[:, : self.k].clamp_min(1e-300) / S[:, :1].clamp_min(1e-300)
        hidden = basis.count_above(scaled.operator, S[:, self.k - 1]) > self.k
        hidden |= (improvable & (error > _POOR)).any(1)
        steps = 0 if self._space is None else self._space.steps
        found = Leading(U, V, S, residual, error, label, torch.zeros(len(S), dtype=torch.float64), steps)
        return self._again(found, scales, hidden) if bool(hidden.any()) else found

    def _ritz(self, scales: torch.Tensor) -> Ritz:
        """What the space knows of `W_s W_s^T` at each scale: O(d^3) a scale."""
        s = scales[:, None, None].cpu()
        values, vectors = torch.linalg.eigh(self._still + s * self._cross + s.square() * self._square)
        values, vectors = values.flip(-1), vectors.flip(-1)
        leak = (
            vectors.new_zeros(len(s), 0, values.shape[1])
            if self._space is None
            else self._leak @ vectors[:, self._axes :]
        )
        rounding = self._rounding + 4 * torch.finfo(values.dtype).eps * values[:, 0].abs()
        return Ritz(values, vectors, leak, rounding)

    def _vectors(self, chosen: torch.Tensor) -> torch.Tensor:
        """Return the rows with these coefficients [g, k, d] as coordinates in the base's basis: [g, k, m]."""
        chosen = chosen.to(self._factors)
        if self._space is None:
            return chosen
        return torch.cat([chosen[..., : self._axes], chosen[..., self._axes :] @ self._tail], 2)

    def _again(self, found: Leading, scales: torch.Tensor, hidden: torch.Tensor) -> Leading:
        """Answer some scales from spaces of their own."""
        other = basis.top(self.coordinates.scaled(scales[hidden]), self.k)
        for name in _PARTS:
            part = getattr(found, name)
            part[hidden.to(part.device)] = getattr(other, name).to(part)
        return found
