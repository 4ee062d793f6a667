"""Intruder dimensions: leading singular vectors of the tuned weight that resemble none of the base's.

Shuttleworth et al. 2024, arXiv:2410.21228v3, Definition 3.1 and Algorithm 1. This file measures; it
never edits a weight. A bare count can mislead, so each vector carries what is needed to doubt it.
"""

from dataclasses import dataclass

import torch

from spectra.engine.decomposition import relative_gaps, resolution
from spectra.engine.resemblance import Resemblance, Side
from spectra.errors import UsageError
from spectra.metrics.null import expected_similarity, null_quantile

TIE = 1e-5
NOVELTY_SPAN = 16
ROTATED_BELOW = 0.5
SWEEP_EPSILON = tuple(round(0.05 * step, 2) for step in range(1, 20))
SWEEP_K = (1, 2, 5, 10, 20, 50, 100)


@dataclass(frozen=True, slots=True)
class Intruders:
    """The leading tuned directions of one side and how each resembles the base, largest value first.

    k, epsilon, side : as asked; arrays hold `min(k, p)` entries.
    similarity, similarity_bound : an interval that holds `max_i |u0_i . u_j|` over all p base vectors, proven as
    in METHODS of the engine (`certificate`); equal where the path is exact. nearest : that i, None where a base
    vector that was not computed might be nearer. sigma : singular value of W. residual : `||W v - sigma u|| /
    sigma_1`. steps : Krylov steps made to decide; missed : bound on the chance that a leading value was overlooked.
    relative_gap : distance of sigma_j to its nearest neighbour over sigma_j.
    novelty : `1 - sum_{i <= q} (u0_i . u_j)^2`, q = novelty_span: share outside the base's top space;
    directions in which the base is zero do not belong to it. The span is shorter where fewer were computed.
    cluster : the largest `||U0_C^T u_j||` over clusters C of tied base values, 0 where there is none.
    base_share, update_share : `u_j.W0 v_j / sigma_j` and `u_j.dW v_j / sigma_j`; they sum to 1, and are
    both 0 where sigma_j is zero to rounding.
    verdict : "kept", or for an intruder "degenerate" (a tie explains it, or sigma_j is zero to rounding:
    the vector is arbitrary), "rotated" or "new"; the three add up to count.
    null : expected similarity of a random direction. null_quantile : of each j, the chance that a random direction is
    no more similar than `similarity`, the lower end where that is an interval.
    margin : least `|similarity_j - epsilon|`, infinite where there is no vector.
    energy_share : `sum over intruders (u_j . dW v_j)^2 / ||dW||_F^2`.
    sweep : counts `[k][epsilon]` over sweep_k and sweep_epsilon (paper Figs. 4 and 15); None where the vectors
    or intervals that were computed leave a count open.
    """

    k: int
    epsilon: float
    side: Side
    similarity: tuple[float, ...]
    similarity_bound: tuple[float, ...]
    nearest: tuple[int | None, ...]
    sigma: tuple[float, ...]
    residual: tuple[float, ...]
    relative_gap: tuple[float, ...]
    novelty: tuple[float, ...]
    novelty_span: int
    cluster: tuple[float, ...]
    base_share: tuple[float, ...]
    update_share: tuple[float, ...]
    verdict: tuple[str, ...]
    null: float
    null_quantile: tuple[float, ...]
    margin: float
    energy_share: float
    steps: int
    missed: float
    sweep_k: tuple[int, ...]
    sweep_epsilon: tuple[float, ...]
    sweep: tuple[tuple[int | None, ...], ...]

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
    resemblance: Resemblance,
    tuned_values: torch.Tensor,
    moved: torch.Tensor,
    *,
    energy: float,
    k: int = 10,
    epsilon: float = 0.5,
    tie: float = TIE,
    novelty_span: int = NOVELTY_SPAN,
    rotated_below: float = ROTATED_BELOW,
) -> Intruders:
    """Compare the top `min(k, p)` vectors of W with all p vectors of W0, on the side of the resemblance.

    Parameters
    ----------
    resemblance : of at least `min(k, p)` leading vectors; more let the sweep go further.
    tuned_values : singular values of W, descending, at least one more than k where there is one.
    moved : `u_j . dW v_j` of the leading vectors. energy : `||dW||_F^2`.
    k, epsilon : the paper's; both matter, so a sweep over both is kept.
    tie : base values whose relative gap is at most this are one cluster (1e-5: far below any gap a
        trained weight shows), or that a float32 decomposition cannot tell apart (see Notes). Zero values
        are no cluster: a direction in which the base is zero is new, not tied.
    novelty_span : q of novelty, raised to k. rotated_below : an intruder at most this novel is rotated.

    Notes
    -----
    A vector cannot have similarity below `1 / sqrt(m)` against a complete basis. Invariant under signs,
    joint rotation, joint scaling, and transposing with the sides swapped.

    Base values closer together than float32 can resolve are tied, and values below that are zero to rounding; than
    float64, where both matrices were decomposed in that.
    """
    require_options(k, epsilon)
    shape, side, dimension = resemblance.shape, resemblance.side, resemblance.dimension
    p, known = min(shape), resemblance.base_values
    overlaps, similarity, bound = (
        part[..., :k] for part in (resemblance.cosines, resemblance.found, resemblance.bound)
    )
    top = len(similarity)
    if top == 0:
        return no_intruders(k, epsilon, side, max(k, novelty_span))
    present = known > _least(known, shape, resemblance.fine)
    span = min(max(k, novelty_span), len(known))
    novelty = (1 - overlaps[:span][present[:span]].square().sum(0)).clamp(0, 1)
    cluster, tied = _clusters(ties(known, shape, tie, fine=resemblance.fine), overlaps, epsilon, dimension)
    below = similarity < epsilon
    sigma = tuned_values[:top].double()
    defined = sigma > _least(tuned_values, shape, resemblance.fine)
    verdict = _verdicts(below, tied | ~defined, novelty <= rotated_below)
    share = torch.where(defined, moved[:top] / sigma, torch.zeros_like(sigma))
    return Intruders(
        k=k,
        epsilon=epsilon,
        side=side,
        similarity=_floats(similarity),
        similarity_bound=_floats(bound),
        nearest=_nearest(resemblance, top),
        sigma=_floats(sigma),
        residual=_floats(resemblance.residual[:top]),
        relative_gap=_floats(relative_gaps(tuned_values)[:top]),
        novelty=_floats(novelty),
        novelty_span=span,
        cluster=_floats(cluster),
        base_share=_floats(torch.where(defined, 1 - share, torch.zeros_like(share))),
        update_share=_floats(share),
        verdict=verdict,
        null=expected_similarity(dimension, p),
        null_quantile=null_quantile(similarity.tolist(), dimension, p),
        margin=_margin(similarity, bound, epsilon),
        energy_share=min(1.0, moved[:top][below].square().sum().item() / energy) if energy else 0.0,
        steps=resemblance.steps,
        missed=resemblance.missed,
        sweep_k=SWEEP_K,
        sweep_epsilon=SWEEP_EPSILON,
        sweep=_sweep(resemblance),
    )


def _margin(found: torch.Tensor, bound: torch.Tensor, epsilon: float) -> float:
    """The least distance of a similarity from epsilon: of the end of its interval that lies nearer."""
    return float(torch.where(found < epsilon, (epsilon - bound).abs(), found - epsilon).min())


def _nearest(resemblance: Resemblance, top: int) -> tuple[int | None, ...]:
    """The base vector most like each tuned one, where none that was not computed can be more like it."""
    if not len(resemblance.base_values):
        return (None,) * top
    best, index = resemblance.cosines[:, :top].max(0)
    sure = (best >= resemblance.elsewhere[:top]).tolist()
    return tuple(int(place) if known else None for place, known in zip(index.tolist(), sure, strict=True))


def _least(values: torch.Tensor, shape: tuple[int, int], fine: bool) -> float:
    """The size up to which a value is zero to rounding, and a difference of two of them a tie."""
    return resolution(float(values[0]), shape, fine=fine) if len(values) else 0.0


def ties(values: torch.Tensor, shape: tuple[int, int], tie: float = TIE, *, fine: bool = False) -> torch.Tensor:
    """Number the clusters of tied values, which descend: [q], from 0. Zeros are tied to nothing."""
    S, least = values.double(), _least(values, shape, fine)
    chained = ((S[:-1] - S[1:]) <= (tie * S[:-1]).clamp_min(least)) & (S[1:] > least)
    return torch.cat([chained.new_zeros(min(1, len(S))), ~chained]).cumsum(0)


def _clusters(
    label: torch.Tensor, overlaps: torch.Tensor, epsilon: float, dimension: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each vector's largest projection on a cluster of tied base values, and whether it explains it.

    label : of each base value the number of its cluster, [q]. overlaps : as in Resemblance, [q, K].

    A cluster explains a vector when the projection reaches epsilon and the cluster is small enough
    (`|C| / m <= epsilon^2`) that a random direction would not reach it.
    """
    nothing = overlaps.new_zeros(overlaps.shape[1])
    if not len(label):
        return nothing, nothing.bool()
    projection = overlaps.new_zeros(int(label[-1]) + 1, overlaps.shape[1])
    projection.index_add_(0, label, overlaps.square())
    size = torch.bincount(label)
    real = size > 1
    norms = projection[real].sqrt()
    if not len(norms):
        return nothing, nothing.bool()
    explains = (norms >= epsilon) & (size[real][:, None] / dimension <= epsilon**2)
    return norms.max(0).values.clamp_max(1), explains.any(0)


def _verdicts(below: torch.Tensor, tied: torch.Tensor, familiar: torch.Tensor) -> tuple[str, ...]:
    flags = zip(below.tolist(), tied.tolist(), familiar.tolist(), strict=True)
    return tuple(
        "kept" if not intrudes else "degenerate" if degenerate else "rotated" if rotated else "new"
        for intrudes, degenerate, rotated in flags
    )


def _sweep(resemblance: Resemblance) -> tuple[tuple[int | None, ...], ...]:
    epsilon, p = resemblance.found.new_tensor(SWEEP_EPSILON), min(resemblance.shape)
    least, most = ((ends[:, None] < epsilon).cumsum(0).tolist() for ends in (resemblance.bound, resemblance.found))

    def counts(k: int) -> tuple[int | None, ...]:
        leading = min(k, p)
        if leading > len(most):
            return (None,) * len(SWEEP_EPSILON)
        both = zip(least[leading - 1], most[leading - 1], strict=True)
        return tuple(high if low == high else None for low, high in both)

    return tuple(counts(k) for k in SWEEP_K)


def _floats(values: torch.Tensor) -> tuple[float, ...]:
    return tuple(values.tolist())


def no_intruders(k: int, epsilon: float, side: Side, span: int = NOVELTY_SPAN) -> Intruders:
    """Return the record of a matrix without vectors to compare: count 0 and empty arrays."""
    counts = tuple(tuple(0 for _ in SWEEP_EPSILON) for _ in SWEEP_K)
    far = float("inf")
    return Intruders(
        k, epsilon, side, (), (), (), (), (), (), (), span, (), (), (), (), 0.0, (), far, 0.0, 0, 0.0,
        SWEEP_K, SWEEP_EPSILON, counts,
    )  # fmt: skip
