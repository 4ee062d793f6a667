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

_LOOSENESS = 0.02  # s tau^2: what an interval may cost in tightness
_FIRST_INTERVALS, _FIRST_INTERVALS_CUDA = 128, 384  # a halving costs more than many points there
_OUTLIERS = 16  # leading Ritz values that the first intervals separate one by one
_HALVINGS = 10
_MOST_POINTS = 4096
_SHARPEST = 1e11  # s |C|^2 at most: any s gives a valid bound, and a larger one would drown the Schur complement


class AtomBound:
    """The bound for vectors with coordinates e [g, d, j] in the Ritz bases of a batch of spaces.

    over_value : bound `|u . v| / sqrt(x)` instead of `|u . v|`, x the eigenvalue of v.
    Cost: `O(points d b (b + j))` operations in float64, as plain matrix products.
    """

    def __init__(self, ritz: Ritz, e: torch.Tensor, *, over_value: bool = False) -> None:
        self.theta, self.rounding, self.over_value = ritz.values, ritz.rounding, over_value
        C = ritz.leak
        g, self.width, d = C.shape
        # Products of pairs, so that all points of a matrix share two products.
        self.leak_leak = torch.einsum("gbd,gcd->gdbc", C, C).reshape(g, d, -1)
        self.leak_e = torch.einsum("gbd,gdj->gdbj", C, e).reshape(g, d, -1)
        self.e_squared = e.square()
        self.sharpest = _SHARPEST / C.square().sum((1, 2)).clamp_min(1e-300)

    def largest(self, low: torch.Tensor, high: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Bound the part on any one eigenvector with eigenvalue in [low, high] [g], for each vector: [g, j].

        target : [g, j]; intervals are halved only while they exceed it. The bound is valid whether or not it is
        reached. With over_value, low must be positive.
        """
        edges = self._edges(low, high)
        left, right = edges[:, :-1], edges[:, 1:]
        worst = torch.zeros_like(target)
        for halving in range(_HALVINGS + 1):
            centre = (left + right) / 2
            squares = self._squared(centre, self.rounding[:, None] + (right - left) / 2, left)
            poor = (squares > target[:, None].square()).any(2)
            count = int(poor.sum(1).max())
            if halving == _HALVINGS or count == 0 or 2 * count > _MOST_POINTS:
                return torch.maximum(worst, squares.amax(1)).sqrt()
            worst = torch.maximum(worst, squares.masked_fill(poor[..., None], 0.0).amax(1))
            # Members with fewer poor intervals than others halve some good ones again, which does no harm.
            chosen = poor.int().argsort(1, descending=True)[:, :count]
            left, centre, right = (part.gather(1, chosen) for part in (left, centre, right))
            left, right = torch.cat([left, centre], 1), torch.cat([centre, right], 1)
        return worst.sqrt()

    def obstruction(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """Return the largest value of the bound at some points, below which no covering can bring it. [g, j]"""
        edges = self._edges(low, high)
        centre = (edges[:, :-1] + edges[:, 1:]) / 2
        return self._squared(centre, self.rounding[:, None].expand_as(centre), centre).amax(1).sqrt()

    def _edges(self, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        """Cover [low, high]: evenly in the singular value up to the bulk's edge (polynomials resolve the small end
        finest), between Ritz values above it. [g, points], ascending"""
        theta = self.theta
        edge = torch.minimum(high, torch.maximum(low, theta[:, min(theta.shape[1] - 1, _OUTLIERS)]))
        first = _FIRST_INTERVALS_CUDA if theta.is_cuda else _FIRST_INTERVALS
        along = torch.linspace(0, 1, first + 1, dtype=theta.dtype, device=theta.device)
        roots = low.sqrt()[:, None] + (edge.sqrt() - low.sqrt())[:, None] * along
        above = theta[:, :_OUTLIERS].flip(1)
        between = (above[:, 1:] + above[:, :-1]) / 2
        between = torch.minimum(torch.maximum(between, edge[:, None]), high[:, None])
        return torch.cat([low[:, None], roots[:, 1:-1].square(), edge[:, None], between, high[:, None]], 1)

    def _squared(self, x: torch.Tensor, tau: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
        """Evaluate the regularised bound, squared, at points x [g, points] with tolerances tau: [g, points, j].

        With `D = 1 + s (theta - x)^2` the inverse is had by a Schur complement of the size of the leak.
        """
        g, points = x.shape
        b = self.width
        s = torch.minimum(_LOOSENESS / tau.clamp_min(1e-150).square(), self.sharpest[:, None])
        apart = self.theta[:, None, :] - x[..., None]
        D = 1 + s[..., None] * apart.square()
        weight = s[..., None] / D
        schur = (weight @ self.leak_leak).reshape(g, points, b, b)
        schur.diagonal(dim1=2, dim2=3).add_(1.0)
        L, _ = torch.linalg.cholesky_ex(schur)
        right = ((weight * apart) @ self.leak_e).reshape(g, points, b, -1)
        through = torch.linalg.solve_triangular(L, right, upper=False)
        squared: torch.Tensor = (1 + s * tau.square())[..., None] * ((1 / D) @ self.e_squared + through.square().sum(2))
        return squared / least[..., None] if self.over_value else squared


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
