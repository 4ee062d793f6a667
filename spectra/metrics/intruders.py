"""Intruder dimensions: leading singular vectors of the tuned weight that resemble none of the base's.

Shuttleworth et al. 2024, arXiv:2410.21228v3, Definition 3.1 and Algorithm 1. This file measures; it
never edits a weight. A bare count can mislead, so each vector carries what is needed to doubt it.
"""

from dataclasses import dataclass

import torch

from spectra.engine.decomposition import SVD
from spectra.errors import UsageError
from spectra.metrics.blocks import row_blocks
from spectra.metrics.null import expected_similarity
from spectra.metrics.similarity import Side, cosines

TIE = 1e-5
NOVELTY_SPAN = 16
ROTATED_BELOW = 0.5
SWEEP_EPSILON = tuple(round(0.05 * step, 2) for step in range(1, 20))
SWEEP_K = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True, slots=True)
class Intruders:
    """The leading tuned directions of one side and how each resembles the base, largest value first.

    k, epsilon, side : as asked; arrays hold `min(k, p)` entries.
    similarity : `max_i |u0_i . u_j|` over all p base vectors; similarity_bound : a proven upper bound,
    equal here because the path is exact. nearest : that i. sigma : singular value of W.
    relative_gap : distance of sigma_j to its nearest neighbour over sigma_j.
    novelty : `1 - sum_{i <= q} (u0_i . u_j)^2`, q = novelty_span: share outside the base's top space;
    directions in which the base is zero do not belong to it.
    cluster : the largest `||U0_C^T u_j||` over clusters C of tied base values, 0 where there is none.
    base_share, update_share : `u_j.W0 v_j / sigma_j` and `u_j.dW v_j / sigma_j`; they sum to 1, and are
    both 0 where sigma_j is zero to rounding.
    verdict : "kept", or for an intruder "degenerate" (a tie explains it, or sigma_j is zero to rounding:
    the vector is arbitrary), "rotated" or "new"; the three add up to count.
    null : expected similarity of a random direction. margin : least `|similarity_j - epsilon|`, infinite
    where there is no vector.
    energy_share : `sum over intruders (u_j . dW v_j)^2 / ||dW||_F^2`.
    sweep : counts `[k][epsilon]` over sweep_k and sweep_epsilon (paper Figs. 4 and 15).
    """

    k: int
    epsilon: float
    side: Side
    similarity: tuple[float, ...]
    similarity_bound: tuple[float, ...]
    nearest: tuple[int, ...]
    sigma: tuple[float, ...]
    relative_gap: tuple[float, ...]
    novelty: tuple[float, ...]
    novelty_span: int
    cluster: tuple[float, ...]
    base_share: tuple[float, ...]
    update_share: tuple[float, ...]
    verdict: tuple[str, ...]
    null: float
    margin: float
    energy_share: float
    sweep_k: tuple[int, ...]
    sweep_epsilon: tuple[float, ...]
    sweep: tuple[tuple[int, ...], ...]

    @property
    def count(self) -> int:
        """The paper's count."""
        return len(self.verdict) - self.verdict.count("kept")

    @property
    def degenerate(self) -> int:
        return self.verdict.count("degenerate")

    @property
    def rotated(self) -> int:
        return self.verdict.count("rotated")

    @property
    def new(self) -> int:
        return self.verdict.count("new")


def require_options(k: int, epsilon: float) -> None:
    """Refuse a k below one or an epsilon outside (0, 1]."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise UsageError(f"k is {k}: the number of leading vectors must be a whole number of at least 1.")
    if not isinstance(epsilon, int | float) or not 0 < epsilon <= 1:
        raise UsageError(f"epsilon is {epsilon}: a similarity threshold lies above 0 and at most at 1.")


def intruders(
    base: SVD,
    tuned: SVD,
    update: torch.Tensor,
    *,
    k: int = 10,
    epsilon: float = 0.5,
    side: Side = "left",
    tie: float = TIE,
    novelty_span: int = NOVELTY_SPAN,
    rotated_below: float = ROTATED_BELOW,
) -> Intruders:
    """Compare the top `min(k, p)` vectors of W with all p vectors of W0.

    Parameters
    ----------
    base, tuned : SVD of W0 and W, all p vectors of the base. update : dW, [m, n].
    k, epsilon : the paper's; both matter, so a sweep over both is kept.
    side : "left" (the paper's) or "right".
    tie : base values whose relative gap is at most this are one cluster (1e-5: far below any gap a
        trained weight shows), or that a float32 decomposition cannot tell apart (see Notes). Zero values
        are no cluster: a direction in which the base is zero is new, not tied.
    novelty_span : q of novelty, raised to k. rotated_below : an intruder at most this novel is rotated.

    Notes
    -----
    A vector cannot have similarity below `1 / sqrt(m)` against a complete basis. Invariant under signs,
    joint rotation, joint scaling, and transposing with the sides swapped.

    A float32 decomposition resolves singular values to `8 eps sigma_1`, above 1024 rows or columns to
    `sqrt(max(m, n)) / 4` times eps sigma_1 (2 to 7 eps were measured at 64 to 2000): values closer
    together are tied, and values below it are zero to rounding.
    """
    require_options(k, epsilon)
    if not base.shape == tuned.shape == tuple(update.shape):
        raise UsageError(
            f"base {list(base.shape)}, tuned {list(tuned.shape)} and update {list(update.shape)} are not of one shape."
        )
    U, V = tuned.U[:, : max(k, *SWEEP_K)].double(), tuned.Vh[: max(k, *SWEEP_K)].T.double()
    every = cosines(base, tuned, k=max(k, *SWEEP_K), side=side).double()
    overlaps = every[:, :k]
    dimension = base.vectors(side).shape[0]
    p, n_top = overlaps.shape
    if n_top == 0:
        return no_intruders(k, epsilon, side, max(k, novelty_span))
    similarity, nearest = overlaps.max(0)
    span = min(max(k, novelty_span), p)
    own = overlaps[:span][_present(base)[:span]]
    novelty = (1 - own.square().sum(0)).clamp(0, 1)
    cluster, tied = _clusters(base, overlaps, tie, epsilon, dimension)
    below = similarity < epsilon
    sigma, defined = tuned.S[:k].double(), _present(tuned)[:k]
    verdict = _verdicts(below, tied | ~defined, novelty <= rotated_below)
    moved = (torch.cat([rows @ V[:, :k] for (rows,) in row_blocks(update)]) * U[:, :k]).sum(0)
    share = torch.where(defined, moved / sigma, torch.zeros_like(sigma))
    energy = sum(rows.square().sum().item() for (rows,) in row_blocks(update))
    return Intruders(
        k=k,
        epsilon=epsilon,
        side=side,
        similarity=_floats(similarity),
        similarity_bound=_floats(similarity),
        nearest=tuple(int(index) for index in nearest),
        sigma=_floats(sigma),
        relative_gap=_floats(tuned.relative_gaps()[:k]),
        novelty=_floats(novelty),
        novelty_span=span,
        cluster=_floats(cluster),
        base_share=_floats(torch.where(defined, 1 - share, torch.zeros_like(share))),
        update_share=_floats(share),
        verdict=verdict,
        null=expected_similarity(dimension, p),
        margin=(similarity - epsilon).abs().min().item(),
        energy_share=min(1.0, moved[below].square().sum().item() / energy) if energy else 0.0,
        sweep_k=SWEEP_K,
        sweep_epsilon=SWEEP_EPSILON,
        sweep=_sweep(every.max(0).values),
    )


def _resolution(decomposition: SVD) -> float:
    """The size below which singular values, and differences of them, are rounding."""
    roundings = max(8.0, max(decomposition.shape) ** 0.5 / 4)
    return float(torch.finfo(torch.float32).eps * roundings * decomposition.S[0])


def _present(decomposition: SVD) -> torch.Tensor:
    """Say which singular values are more than rounding. [q], bool"""
    return decomposition.S.gt(_resolution(decomposition))


def _clusters(
    base: SVD, overlaps: torch.Tensor, tie: float, epsilon: float, dimension: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each vector's largest projection on a cluster of tied base values, and whether it explains it.

    A cluster explains a vector when the projection reaches epsilon and the cluster is small enough
    (`|C| / m <= epsilon^2`) that a random direction would not reach it.
    """
    S = base.S.double()
    width = (tie * S[:-1]).clamp_min(_resolution(base))
    chained = ((S[:-1] - S[1:]) <= width) & _present(base)[1:]
    label = torch.cat([chained.new_zeros(1), ~chained]).cumsum(0)
    projection = overlaps.new_zeros(int(label[-1]) + 1, overlaps.shape[1])
    projection.index_add_(0, label, overlaps.square())
    size = torch.bincount(label)
    real = size > 1
    norms = projection[real].sqrt()
    if not len(norms):
        nothing = overlaps.new_zeros(overlaps.shape[1])
        return nothing, nothing.bool()
    explains = (norms >= epsilon) & (size[real][:, None] / dimension <= epsilon**2)
    return norms.max(0).values.clamp_max(1), explains.any(0)


def _verdicts(below: torch.Tensor, tied: torch.Tensor, familiar: torch.Tensor) -> tuple[str, ...]:
    flags = zip(below.tolist(), tied.tolist(), familiar.tolist(), strict=True)
    return tuple(
        "kept" if not intrudes else "degenerate" if degenerate else "rotated" if rotated else "new"
        for intrudes, degenerate, rotated in flags
    )


def _sweep(similarity: torch.Tensor) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(int((similarity[:k] < epsilon).sum()) for epsilon in SWEEP_EPSILON) for k in SWEEP_K)


def _floats(values: torch.Tensor) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def no_intruders(k: int, epsilon: float, side: Side, span: int = NOVELTY_SPAN) -> Intruders:
    """Return the record of a matrix without vectors to compare: count 0 and empty arrays."""
    counts = tuple(tuple(0 for _ in SWEEP_EPSILON) for _ in SWEEP_K)
    far = float("inf")
    return Intruders(
        k, epsilon, side, (), (), (), (), (), (), span, (), (), (), (), 0.0, far, 0.0, SWEEP_K, SWEEP_EPSILON, counts
    )
