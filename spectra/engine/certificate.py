"""How much of a vector can lie on a single eigenvector: an upper bound proven from a Krylov space.

Let the orthonormal columns Q satisfy `M Q = Q T + Q_+ L` (T = S diag(theta) S^T, the leak `C = L S_last`),
and let v be a unit eigenvector of M with eigenvalue x. Then `y = S^T Q^T v` and `z = Q_+^T v` obey
`(theta - x) y + C^T z = 0` and `|y|^2 + |z|^2 <= 1`, so for a vector u = Q S e inside the space
`(u . v)^2 = (e . y)^2` is at most the squared length of e on the null space of `G(x) = [theta - x, C^T]`.

That equation holds only up to rounding, and for every eigenvalue within delta of x up to delta, so with
tau = rounding + delta the bound used is the regularised one: for every s > 0

    (e . y)^2 <= (1 + s tau^2) e^T [I + s G^T G]^{-1} e.

One formula covers rounding, the interval between two points, and clusters narrower than it. It is the
Christoffel function of the block measure, in a form that neither overflows at a converged Ritz value nor
has to be sampled: intervals cover the whole range and are halved until they are narrow enough.
Sources: Golub and Meurant, "Matrices, Moments and Quadrature" (2010), chs. 6-7, for the scalar case.
"""

import math

import scipy.special
import torch

from spectra.engine.krylov import Ritz

_LOOSENESS = 0.05  # s tau^2: what an interval may cost in tightness
_FIRST_INTERVALS = 48
_OUTLIERS = 16  # leading Ritz values that the first intervals separate one by one
_HALVINGS = 10
_MOST_POINTS = 4096
_SHARPEST = 1e11  # s |C|^2 at most: any s gives a valid bound, and a larger one would drown the Schur complement


class AtomBound:
    """The bound for vectors with coordinates e [d, j] in the Ritz basis of one matrix's space.

    over_value : bound `|u . v| / sqrt(x)` instead of `|u . v|`, x the eigenvalue of v.
    Cost: `O(points d b (b + j))` operations in float64, as plain matrix products.
    """

    def __init__(self, ritz: Ritz, e: torch.Tensor, *, over_value: bool = False) -> None:
        self.theta, C, self.rounding = ritz.values[0], ritz.leak[0], float(ritz.rounding[0])
        self.over_value, self.e_squared = over_value, e.square()
        b, d = C.shape
        self.width = b
        # Products of pairs, so that all points share two matrix products.
        self.leak_leak = (C[:, None, :] * C[None, :, :]).reshape(b * b, d).T
        self.leak_e = (C.T[:, :, None] * e[:, None, :]).reshape(d, -1)
        self.sharpest = _SHARPEST / C.square().sum().clamp_min(1e-300)

    def largest(self, low: float, high: float, target: torch.Tensor) -> torch.Tensor:
        """Bound the part on any one eigenvector with eigenvalue in [low, high], for each vector: [j].

        target : [j]; intervals are halved only while they exceed it. The bound is valid whether or not it is
        reached. With over_value, low must be positive.
        """
        edges = self._edges(low, high)
        left, right = edges[:-1], edges[1:]
        worst = torch.zeros_like(target)
        points = 0
        for halving in range(_HALVINGS + 1):
            centre = (left + right) / 2
            squares = self._squared(centre, self.rounding + (right - left) / 2, left)
            points += len(centre)
            poor = (squares > target.square()).any(1)
            if halving == _HALVINGS or points > _MOST_POINTS:
                poor = torch.zeros_like(poor)
            if not bool(poor.all()):
                worst = torch.maximum(worst, squares[~poor].amax(0))
            left, centre, right = left[poor], centre[poor], right[poor]
            if not len(left):
                break
            left, right = torch.cat([left, centre]), torch.cat([centre, right])
        return worst.sqrt()

    def obstruction(self, low: float, high: float) -> torch.Tensor:
        """Return the largest value of the bound at some points, below which no covering can bring it. [j]"""
        edges = self._edges(low, high)
        centre = (edges[:-1] + edges[1:]) / 2
        return self._squared(centre, torch.full_like(centre, self.rounding), centre).amax(0).sqrt()

    def _edges(self, low: float, high: float) -> torch.Tensor:
        """Cover [low, high]: evenly in the singular value up to the bulk's edge (polynomials resolve the small end
        finest), between Ritz values above it."""
        theta = self.theta
        edge = min(high, max(low, float(theta[min(len(theta) - 1, _OUTLIERS)])))
        roots = torch.linspace(math.sqrt(low), math.sqrt(edge), _FIRST_INTERVALS + 1, dtype=torch.float64)
        above = theta[:_OUTLIERS].flip(0)
        between = (above[1:] + above[:-1]) / 2
        inside = between[(between > edge) & (between < high)]
        edges = torch.cat([roots.square(), inside, torch.tensor([high], dtype=torch.float64)])
        edges[0] = low
        return edges

    def _squared(self, x: torch.Tensor, tau: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
        """Evaluate the regularised bound, squared, at points x with tolerances tau: [points, j].

        With `D = 1 + s (theta - x)^2` the inverse is had by a Schur complement of the size of the leak.
        """
        b = self.width
        s = torch.minimum(_LOOSENESS / tau.clamp_min(1e-150).square(), self.sharpest)
        apart = self.theta - x[:, None]
        D = 1 + s[:, None] * apart.square()
        weight = s[:, None] / D
        schur = (weight @ self.leak_leak).reshape(-1, b, b)
        schur.diagonal(dim1=1, dim2=2).add_(1.0)
        L, _ = torch.linalg.cholesky_ex(schur)
        right = ((weight * apart) @ self.leak_e).reshape(len(x), b, -1)
        through = torch.linalg.solve_triangular(L, right, upper=False)
        squared = (1 + s * tau.square())[:, None] * ((1 / D) @ self.e_squared + through.square().sum(1))
        return squared / least[:, None] if self.over_value else squared


def chance_hidden(beyond: float, steps: int, dimension: int, columns: int) -> float:
    """Bound the chance that an eigenvalue lies beyond all Ritz values of a space and is not shown by it.

    Let the space be `span{G, .., M^(N-1) G}`, its largest Ritz value (but for vectors found to be invariant) theta
    and [a, theta] hold the spectrum below it. Were there an eigenvalue `x >= theta + t (theta - a)` with vector v,
    Rayleigh quotients of `T_(N-1)(M) g` (Chebyshev's polynomial on [a, theta]) could stay below theta only if
    every unit g of the start's span had `(g . v)^2 <= beta^2 = 1 / (t T_(N-1)(1 + 2 t)^2)`. A fixed v has so small
    a part on the span of `columns` random rows with probability `I_{beta^2}(columns / 2, (dimension - columns) / 2)`
    (regularised incomplete beta function). The same holds below the smallest Ritz value.

    beyond : t. steps : N. After Kuczynski and Wozniakowski (1992), whose single start is the case of one column.
    """
    if beyond <= 0 or steps < 1 or columns < 1:
        return 1.0
    growth = math.cosh(min(300.0, (steps - 1) * math.acosh(1 + 2 * beyond)))
    squared = min(1.0, 1 / (beyond * growth**2))
    return float(scipy.special.betainc(columns / 2, max(dimension - columns, 1) / 2, squared))
