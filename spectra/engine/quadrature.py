"""Ranks of a very large update from products alone, each with an error bar: stochastic Lanczos quadrature.

A spectral sum `sum_i f(sigma_i)` is the trace of a function of `M = W W^T`. Its part on the leading directions
and its mean over random unit vectors of the rest are read from the Gauss rules that a few Lanczos steps give.
Two errors remain, and both are reported: that of the mean over the random vectors (99 %, Student's t), and
that of the rules, bounded by the difference to the rule with a node prescribed at 0, or at the threshold.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import scipy.special
import torch

from spectra.engine.krylov import Linear
from spectra.engine.leading import leading
from spectra.updates import Update

PROBES, STEPS = 16, 32
_DEFLATED = 10  # leading directions taken out of the random part: they make most of its variance
_DEFLATION_STEPS = 8
_CONFIDENCE = 0.995  # of the two-sided 99 % interval: few probes of skewed parts cover the truth less often
_SMALL, _ENDED = 1e-3, 1e-6  # of the largest value: a step to orthogonalise twice, and one that is rounding
_SPREAD = 1e-5  # of the energy: a spread of the probes' energies that the rounding of float32 products may rival
_CERTAIN = 1e-3  # share of a direction below which an error of a whole number is none


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and the half width of its interval."""

    value: float
    error: float


@dataclass(frozen=True, slots=True)
class Count:
    """A number of directions and how far it may be off."""

    value: int
    error: int


@dataclass(frozen=True, slots=True)
class Products:
    """An update as a Krylov space needs it: products with rows, nothing formed. like : gives dtype and device."""

    update: Update
    like: torch.Tensor
    flipped: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        m, n = self.update.shape
        return (1, n, m) if self.flipped else (1, m, n)

    @property
    def transposed(self) -> "Products":
        return Products(self.update, self.like, not self.flipped)

    def part(self, index: torch.Tensor) -> "Products":
        """A batch of one has no other part."""
        del index
        return self

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return `W x` for rows x [1, b, n]: [1, b, m]."""
        multiply = self.update.rmatmul if self.flipped else self.update.matmul
        return multiply(x[0].mT).mT[None]


@dataclass(frozen=True, slots=True)
class Rule:
    """Nodes, ascending, and weights of one quadrature rule a start vector, for the eigenvalues of M. [c, s] each"""

    nodes: torch.Tensor
    weights: torch.Tensor


@dataclass(frozen=True, slots=True)
class Quadrature:
    """What Lanczos steps from c start vectors say of the spectrum of W [m, n].

    diagonal, beside : [c, s], the tridiagonal matrices; the last entry beside is what leads out. mass : [c], what
    each vector stands for: 1 for the first `deflated`, then equal shares of the other dimensions.
    energy : `||W||_F^2`, exact. values : the leading singular values.
    """

    diagonal: torch.Tensor
    beside: torch.Tensor
    mass: torch.Tensor
    deflated: int
    energy: float
    values: torch.Tensor

    @property
    def steps(self) -> int:
        return self.diagonal.shape[1]

    @property
    def probes(self) -> int:
        return len(self.mass) - self.deflated

    def effective(self) -> Estimate:
        """Return `exp(-sum p ln p)`, `p = s / sum s`."""
        total, total_each, total_gap = self._sum(lambda x: x.sqrt())
        moment, moment_each, moment_gap = self._sum(lambda x: torch.xlogy(x.sqrt(), x.sqrt()))
        mean = moment / total
        slope = (1 + mean) / total  # of the entropy `ln N - L / N` in N; in L it is -1 / N
        off = self._interval(slope * total_each - moment_each / total, abs(slope * total_gap - moment_gap / total))
        value = math.exp(math.log(total) - mean)
        return Estimate(value, value * math.expm1(off))

    def stable(self) -> Estimate:
        """Return `||W||_F^2 / sigma_1^2`. Some eigenvalue of M is as near to its Ritz value as the residual."""
        nodes, vectors = torch.linalg.eigh(_tridiagonal(self.diagonal, self.beside[:, :-1]))
        row = int(nodes[:, -1].argmax())
        top = float(nodes[row, -1])
        residual = abs(float(self.beside[row, -1] * vectors[row, -1, -1])) / top
        value = self.energy / top
        return Estimate(value, value * residual)

    def participation(self) -> Estimate:
        """Return `(sum s^2)^2 / sum s^4`. The rules are exact for it."""
        total, each, _ = self._sum(lambda x: x.square())
        value = self.energy**2 / total
        return Estimate(value, value * self._interval(each / total, 0.0))

    def energy_rank(self, share: float) -> Count:
        """Return the fewest directions that hold a share of the energy.

        It is the largest value over x of `sum min(1, y / x) - (1 - share) energy / x`, y the eigenvalues of M:
        where the values below x hold the rest of the energy. The sum is continuous in y, and the rules serve it well.
        """
        rest = (1 - share) * self.energy
        rule = self._gauss()
        nodes, order = rule.nodes.clamp_min(0).flatten().sort()
        below = (nodes * (rule.weights * self.mass[:, None]).flatten()[order]).cumsum(0)
        x = float(nodes[min(int((below <= rest).sum()), len(nodes) - 1)])
        value, each, half = self._sum(lambda y: (y / x).clamp_max(1))
        return self._whole(value - rest / x, self._interval(each, abs(half)), math.ceil)

    def count(self, threshold: float) -> Count:
        """Return the number of singular values above a threshold.

        The rule with a node at the threshold brackets the measure above it, with that node's weight or without
        (Chebyshev, Markov, Stieltjes): half of it is the error of the rule.
        """
        x = threshold**2
        rule = self._with_node(x)
        own = (rule.nodes - x).abs().argmin(1, keepdim=True)
        node = rule.weights.gather(1, own)[:, 0]
        above = torch.where(rule.nodes > x, rule.weights, 0.0).scatter(1, own, 0.0).sum(1)
        value, each = self._total(above + node / 2)
        half, _ = self._total(node / 2)
        return self._whole(value, self._interval(each, half), round)

    def _whole(self, value: float, error: float, rounded: Callable[[float], int]) -> Count:
        """A number of directions, at most all of them."""
        certain = value - _CERTAIN if rounded is math.ceil else value
        most = round(float(self.mass.sum()))
        return Count(min(max(rounded(certain), 0), most), math.ceil(error) if error > _CERTAIN else 0)

    def _gauss(self) -> Rule:
        return _rule(self.diagonal, self.beside[:, :-1])

    def _with_node(self, x: float) -> Rule:
        """Return the rules of one node more that have a node at x (Golub and Meurant, section 6.2.1)."""
        rule = self._gauss()
        T = _tridiagonal(self.diagonal, self.beside[:, :-1])
        _, vectors = torch.linalg.eigh(T)
        away = rule.nodes - x
        away = torch.where(away.abs() < 1e-14 * self._scale, 1e-14 * self._scale, away)
        last = x + (self.beside[:, -1:].square() * vectors[:, -1].square() / away).sum(1, keepdim=True)
        return _rule(torch.cat([self.diagonal, last], 1), self.beside)

    @property
    def _scale(self) -> float:
        return float(self.values[0]) ** 2

    def _sum(self, f: Callable[[torch.Tensor], torch.Tensor]) -> tuple[float, torch.Tensor, float]:
        """Return `sum f(sigma^2)` midway between two rules, by how much each probe is off, and half their gap."""
        parts = [(rule.weights * f(rule.nodes.clamp_min(0))).sum(1) for rule in (self._gauss(), self._with_node(0.0))]
        value, each = self._total((parts[0] + parts[1]) / 2)
        half, _ = self._total((parts[0] - parts[1]) / 2)
        return value, each, half

    def _total(self, parts: torch.Tensor) -> tuple[float, torch.Tensor]:
        """Sum up a part a start vector; return also by how much each probe alone is off.

        The probes' energies, whose true mean is known, are a control variate: what goes with them is taken out.
        """
        random, energy = (
            part[self.deflated :] * self.mass[self.deflated :] * self.probes for part in (parts, self.diagonal[:, 0])
        )
        known = self.energy - float(self.diagonal[: self.deflated, 0].sum())
        own, with_energy = random - random.mean(), energy - energy.mean()
        fixed, square = float(parts[: self.deflated].sum()), float(with_energy.square().sum())
        if square <= (_SPREAD * self.probes * self.energy) ** 2:
            return fixed + float(random.mean()), own
        slope, beyond = float(own @ with_energy) / square, float(energy.mean()) - known
        stretched = math.sqrt(1 + self.probes * beyond**2 / square)  # a line is less sure away from its points
        return fixed + float(random.mean()) - slope * beyond, (own - slope * with_energy) * stretched

    def _interval(self, each: torch.Tensor, bound: float) -> float:
        """Combine the 99 % interval of a mean over probes with the bound of a rule."""
        free = self.probes - 2
        spread = math.sqrt(float(each.square().sum()) / free / self.probes)
        return float(scipy.special.stdtrit(free, _CONFIDENCE)) * spread + bound


def estimate(operator: Linear, energy: float, *, probes: int = PROBES, steps: int = STEPS, seed: int = 0) -> Quadrature:
    """Run Lanczos from the leading directions of W and from random unit vectors of their complement.

    Parameters
    ----------
    operator : W, a batch of one, its smaller dimension above 128. energy : `||W||_F^2`. probes, steps : of the
    random part; the interval shrinks with the root of the probes, the error of the rules with the steps.

    Notes
    -----
    `4 m n (probes + 10) steps` operations; memory `(probes + 10) steps (m + n)` entries. Golub-Kahan steps with
    full reorthogonalisation in the precision of the products, sums in float64.

    References
    ----------
    Ubaru, Chen and Saad 2017, SIAM J. Matrix Anal. Appl. 38 (the method); Golub and Meurant 2010, Matrices,
    Moments and Quadrature, section 6 (the rules); Meyer et al. 2021, arXiv:2010.09649 (deflation).
    """
    operator = operator if operator.shape[1] <= operator.shape[2] else operator.transposed
    p = operator.shape[1]
    found = leading(operator, _DEFLATED, most=_DEFLATION_STEPS, seed=seed)
    U, _ = torch.linalg.qr(found.U[0].mT)
    generator = torch.Generator().manual_seed(seed)
    Z = torch.randn(p, probes, generator=generator, dtype=torch.float64).to(U)
    for _ in range(2):
        Z -= U @ (U.mT @ Z)
    starts = torch.cat([U, Z / torch.linalg.vector_norm(Z, dim=0)], 1).mT
    alpha, beta = _bidiagonal(operator, starts.contiguous(), steps, float(found.S[0, 0]))
    before = torch.cat([torch.zeros_like(beta[:, :1]), beta[:, :-1]], 1)
    mass = torch.cat([torch.ones(_DEFLATED), torch.full((probes,), (p - _DEFLATED) / probes)]).double()
    values = found.S[0, :_DEFLATED].cpu()
    return Quadrature(alpha.square() + before.square(), alpha * beta, mass, _DEFLATED, energy, values)


def _bidiagonal(operator: Linear, u: torch.Tensor, steps: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Bidiagonalise from every row of u [c, m] by itself; return the diagonals and what is below them, [c, steps].

    scale : the largest singular value; what is rounding beside it ends a row's steps.
    """
    c, m = u.shape
    left, right = u.new_empty(c, steps + 1, m), u.new_empty(c, steps, operator.shape[2])
    alpha, beta = (torch.zeros(c, steps, dtype=torch.float64) for _ in range(2))
    left[:, 0] = u
    for step in range(steps):
        v = operator.transposed(u[None])[0]
        if step:
            v -= beta[:, step - 1, None].to(v) * right[:, step - 1]
        v, alpha[:, step] = _next(v, right[:, :step], scale)
        right[:, step] = v
        u = operator(v[None])[0] - alpha[:, step, None].to(v) * left[:, step]
        u, beta[:, step] = _next(u, left[:, : step + 1], scale)
        left[:, step + 1] = u
    return alpha, beta


def _next(y: torch.Tensor, basis: torch.Tensor, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Make every row of y orthogonal to its own basis; return it with norm 1, or 0 where it ends, and its norm."""
    y = _apart(y, basis)
    size = torch.linalg.vector_norm(y.double(), dim=1)
    small = size < _SMALL * scale
    if bool(small.any()):
        y[small] = _apart(y[small], basis[small])
        size = torch.linalg.vector_norm(y.double(), dim=1)
    ended = size < _ENDED * scale
    size = size.masked_fill(ended, 0.0)
    unit = torch.where(ended, 0.0, 1 / size).to(y)
    return y * unit[:, None], size.cpu()


def _apart(y: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Return rows y [c, m] less their part in the rows of their own basis [c, j, m]."""
    return y - ((basis @ y[:, :, None]).mT @ basis)[:, 0]


def _tridiagonal(diagonal: torch.Tensor, beside: torch.Tensor) -> torch.Tensor:
    return torch.diag_embed(diagonal) + torch.diag_embed(beside, 1) + torch.diag_embed(beside, -1)


def _rule(diagonal: torch.Tensor, beside: torch.Tensor) -> Rule:
    """The nodes are the eigenvalues, the weights the squared first components of the eigenvectors."""
    nodes, vectors = torch.linalg.eigh(_tridiagonal(diagonal, beside))
    return Rule(nodes, vectors[:, 0].square())
