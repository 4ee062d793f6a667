"""The leading singular triplets of a matrix by block Krylov, each with its residual and error.

Products alone, about `4 m n b` operations a step; no decomposition of the matrix.
"""

from dataclasses import dataclass

import torch

from spectra.engine.certificate import chance_hidden
from spectra.engine.krylov import WIDTH, Krylov, Linear, Ritz, random_rows

_MOST = 24
_DISTINCT = 0.05  # error above which a vector is not told from its neighbour
_LOOKS, _LOOKS_CUDA = (5, 1), (10, 3)  # steps before the first look and between two: a look costs more on CUDA
_FOUND = 0.1  # residual over gap below which a Ritz vector is a singular vector that was found
_SURE = 1e-6  # chance of an overlooked value at which no further step is needed
_ENOUGH = 1e-3  # error of a vector at which it needs no further step
_SPARE, _SPARE_CUDA = 6, 14  # columns beyond k: the more, the faster the last vectors come


@dataclass(frozen=True, slots=True)
class Leading:
    """The top `k` triplets of a batch of matrices, and one value more. Rows are vectors.

    U : [g, k, m], V : [g, k, n], in the precision of the matrix; S : [g, k + 1], float64, descending.
    residual : [g, k], `||W v - sigma u|| / sigma_1`; error : [g, k], bound on `||u - u_true||` and on
    `||v - v_true||` (Wedin: residual over gap; 1 or more says that only a space is known).
    label : [g, k], number of the cluster a vector belongs to: vectors of one cluster are known only as a space,
    and their error is that of the space.
    missed : [g], bound on the probability that a value above `S[k]` was overlooked. steps : products / 2.
    """

    U: torch.Tensor
    V: torch.Tensor
    S: torch.Tensor
    residual: torch.Tensor
    error: torch.Tensor
    label: torch.Tensor
    missed: torch.Tensor
    steps: int

    def part(self, members: list[int]) -> "Leading":
        """The same for some matrices of the batch."""
        index = torch.tensor(members)

        def of(part: torch.Tensor) -> torch.Tensor:
            return part[index.to(part.device)]

        return Leading(
            of(self.U), of(self.V), of(self.S), of(self.residual), of(self.error), of(self.label), of(self.missed),
            self.steps,
        )  # fmt: skip


def width_for(columns: int) -> int:
    """Return the block width that holds this many columns."""
    return WIDTH * -(-columns // WIDTH)


def leading(
    operator: Linear,
    k: int,
    *,
    start: torch.Tensor | None = None,
    seed: int = 0,
    first: int | None = None,
    most: int = _MOST,
) -> Leading:
    """Find the top k singular triplets of every matrix of a batch.

    Parameters
    ----------
    operator : W, batched; k : at most a quarter of the smaller dimension is sensible.
    start : rows [g, b, m or n, the smaller] to start from; by default random ones, on which `missed` rests.
    first, most : steps before the first look, and the most that are made. The space grows until every
        vector's error is below 1e-3, or cannot be improved in this precision.

    Notes
    -----
    The space lives on the smaller side; the other side's vectors are `W^T u / sigma`.
    """
    g, m, n = operator.shape
    flipped = m > n
    if flipped:
        operator, m, n = operator.transposed, n, m
    random = start is None
    if start is None:
        spare = _SPARE_CUDA if operator.like.is_cuda else _SPARE
        start = random_rows(g, min(width_for(k + spare), m), m, operator.like, seed)
    width = start.shape[1]
    most = max(1, min(most, m // width - 1))
    space = Krylov(operator, start, most)
    usual, at_once = _LOOKS_CUDA if start.is_cuda else _LOOKS
    space.grow(min(usual if first is None else first, most))
    while True:
        ritz = space.ritz()
        missed = _missed(ritz, k, space.steps, m, width) if random else [1.0] * g
        if space.steps >= most or not (_improvable(ritz, k) or (random and max(missed) > _SURE)):
            break
        space.grow(min(at_once, most - space.steps))
    S = ritz.values[:, : k + 1].clamp_min(0).sqrt()
    chosen = ritz.vectors[:, :, :k].mT
    U, V = space.vectors(chosen), space.images_of(chosen)
    V = V / V.norm(dim=2, keepdim=True).clamp_min(torch.finfo(V.dtype).tiny)
    U, V = (V, U) if flipped else (U, V)
    residual = ritz.residuals()[:, :k] / S[:, :k].clamp_min(1e-300) / S[:, :1].clamp_min(1e-300)
    error, label = errors(ritz, k)
    return Leading(U, V, S, residual, error, label, torch.tensor(missed, dtype=torch.float64), space.steps)


def _missed(ritz: Ritz, k: int, steps: int, m: int, width: int) -> list[float]:
    """Bound, for each matrix, the chance that a value above the k-th was overlooked.

    Ritz vectors after the k-th that have converged as well are found too: the first that has not is what an
    overlooked value would have to hide behind.
    """
    found = []
    for values, residuals in zip(ritz.values.cpu(), ritz.residuals().cpu(), strict=True):
        converged = residuals[k:-1] < _FOUND * (values[k:-1] - values[k + 1 :])
        behind = k + int(converged.long().cumprod(0).sum())
        if behind >= len(values) or values[k - 1] <= 0:
            found.append(1.0)
            continue
        beyond = float((values[k - 1] - values[behind]) / values[behind].clamp_min(1e-300))
        found.append(chance_hidden(beyond, steps, m, width))
    return found


def errors(ritz: Ritz, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Bound the error of each leading vector by Wedin's theorem, residual over gap, and label clusters. [g, k] each

    Vectors that their gap leaves undetermined (error above 5 %) are joined with the neighbour that is too
    close, and the gap is then that around the cluster.
    """
    sigma = ritz.values[:, : k + 1].clamp_min(0).sqrt()
    residual = ritz.residuals()[:, : k + 1] / sigma.clamp_min(1e-300)
    # A neighbour's true value lies within its own residual of its Ritz value.
    step = (sigma[:, :-1] - sigma[:, 1:] - residual[:, 1:]).clamp_min(0)
    close = step * _DISTINCT < torch.maximum(residual[:, :-1], residual[:, 1:])
    close[:, -1] = False  # what lies beyond the k-th is not known well enough to join it
    label = torch.cat([torch.zeros_like(close[:, :1]), ~close[:, :-1]], 1).long().cumsum(1)
    below = torch.where(close, torch.inf, step)
    above = torch.cat([torch.full_like(step[:, :1], torch.inf), below[:, :-1]], 1)
    nearest = torch.minimum(torch.minimum(above, below), sigma[:, :-1])
    own = residual[:, :-1].square()
    least = torch.full_like(nearest, torch.inf).scatter_reduce(1, label, nearest, "amin").gather(1, label)
    whole = over_clusters(own, label)
    return (whole / least.clamp_min(1e-300)).clamp_max(2.0), label


def over_clusters(squares: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Give every member of a cluster the root of the sum of squares over the cluster. [g, k] each"""
    return torch.zeros_like(squares).scatter_add(1, label, squares).gather(1, label).sqrt()


def _improvable(ritz: Ritz, k: int) -> bool:
    """Whether some vector is not accurate yet and its residual is more than rounding."""
    error, _ = errors(ritz, k)
    above_rounding = ritz.leak[:, :, :k].norm(dim=1) > ritz.rounding[:, None]
    return bool(((error > _ENOUGH) & above_rounding).any())
