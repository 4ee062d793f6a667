"""The certified path: is a leading tuned direction an intruder, without a decomposition of either matrix.

1. The top k triplets of W by block Krylov (`leading`), each with the error of its vectors.
2. A Krylov space of the base from those vectors and a few random ones. Its converged leading Ritz pairs are
   base directions: a large cosine with one is a witness that the vector was kept.
3. What no witness explains is bounded on every eigenvector of `W0 W0^T` (`certificate`): below epsilon
   everywhere, the vector is an intruder, proven.
4. The space grows until every vector is decided. Where growing cannot help, the exact path takes over.
"""

from dataclasses import dataclass

import torch

from spectra.engine.certificate import AtomBound, chance_hidden
from spectra.engine.decomposition import resolution
from spectra.engine.krylov import Krylov, Operator, Ritz, random_rows
from spectra.engine.leading import Leading, width_for
from spectra.engine.resemblance import Resemblance, Side

_LOOKS = (4, 6, 8)  # steps at which the space is looked at; then as the trend says
_LONGEST = 8  # most steps between two looks
_SPARE, _SPARE_NULL = 2, 12  # random columns beside the vectors; more where small values must be excluded
_CONVERGED = 1e-3  # error up to which a base direction is a witness
_SURE = 1e-6  # chance of a hidden small value above which nothing is claimed
_BELOW_LEAST = (0.7, 0.5, 0.35, 0.25, 0.12)  # shares of the least Ritz value tried as a floor of all eigenvalues
_LEAST_EXCESS = 1e-6
_SMALL = 0.1  # bound on a base direction's part that is small enough not to change a name
_NAMING = 16  # steps that are made for telling rotated from new alone; then a shorter span must do


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be decided of each vector.

    epsilon : the threshold of an intruder; span : base directions its novelty is taken against; rotated_below :
    the novelty that separates rotated from new; tie : relative gap up to which base values are one cluster.
    """

    epsilon: float
    span: int
    rotated_below: float = 0.5
    tie: float = 1e-5


@dataclass(frozen=True, slots=True)
class _Witnesses:
    """The converged leading base directions: values of M [q], coordinates |cos| [q, k], errors [q], cluster [q].

    space_error : how far their span is from that of the base directions.
    """

    values: torch.Tensor
    cosines: torch.Tensor
    errors: torch.Tensor
    label: torch.Tensor
    space_error: float


def certify(
    base: Operator, tuned: Leading, *, side: Side, question: Question, most: int, seed: int = 1
) -> list[Resemblance | None]:
    """Bound the similarity of every leading vector of a batch to all base directions of one side.

    Parameters
    ----------
    base : W0, batched, no update. tuned : the leading triplets of W. most : most steps; each reads W0 twice.

    Returns
    -------
    One Resemblance a matrix, or None where some vector stays undecided: that is for the exact path.
    """
    operator = base if side == "left" else base.T
    vectors = tuned.U if side == "left" else tuned.V
    through = operator.shape[1] > operator.shape[2]
    if through:  # the space lives on the smaller side, where M has no null space by its shape
        operator = operator.T
        vectors = operator(vectors)
    g, k, m = vectors.shape
    width = width_for(k + (_SPARE_NULL if through else _SPARE))
    most = min(most, m // width - 1)
    found: list[Resemblance | None] = [None] * g
    if most < 1:
        return found
    space = Krylov(operator, torch.cat([vectors, random_rows(g, width - k, m, vectors, seed)], 1), most)
    coordinates = (space.first_block @ vectors.mT).double().cpu()
    still, trend, steps = list(range(g)), [], min(_LOOKS[0], most)
    while True:
        space.grow(steps - space.steps)
        ritz = space.ritz()
        excess = 0.0
        for member in list(still):
            look = _Look(space, ritz.of(member), coordinates[member], tuned, member, question, side, through)
            if look.hopeless:
                still.remove(member)
            elif look.named or (look.decided and space.steps >= min(_NAMING, most)):
                found[member] = look.resemblance()
                still.remove(member)
            excess = max(excess, question.epsilon if look.decided and not look.named else look.excess)
        if not still or space.steps >= most:
            return found
        trend.append((space.steps, excess))
        steps = min(most, _next_look(trend))


def _next_look(trend: list[tuple[int, float]]) -> int:
    """When to look again: at the first looks, then where the excess of the bound would reach zero."""
    now, excess = trend[-1]
    ahead = [look for look in _LOOKS if look > now]
    if ahead or len(trend) < 2:
        return ahead[0] if ahead else now + 1
    before, earlier = trend[-2]
    fall = (earlier - excess) / (now - before)
    return now + (_LONGEST if fall <= 0 else max(1, min(_LONGEST, round(excess / fall))))


class _Look:
    """What a space says of one matrix's vectors now."""

    def __init__(
        self, space: Krylov, ritz: Ritz, coordinates: torch.Tensor, tuned: Leading, member: int, question: Question,
        side: Side, through: bool,
    ) -> None:  # fmt: skip
        self.space, self.ritz, self.question, self.side, self.through = space, ritz, question, side, through
        self.error, self.together = tuned.error[member], tuned.label[member]
        self.residual, self.missed = tuned.residual[member], float(tuned.missed[member])
        self.e = ritz.vectors[0, : space.width].mT @ coordinates
        self.witnesses = _witnesses(ritz, self.e, question.tie, self.shape, through)
        self.known, within, self.tie = self._best()
        held = self.witnesses.cosines.square().sum(0)
        self.elsewhere = ((1 - held).clamp_min(0).sqrt() + self.error + self.witnesses.space_error).clamp_max(1)
        self.hopeless = bool((self.error >= question.epsilon / 2).any())
        self.low, self.high = 0.0, float(ritz.values[0, 0] + 2 * ritz.residuals()[0, 0])
        self._tighten()
        self.bound = self._over_clusters(torch.maximum(within, self.elsewhere)).clamp_max(1)
        self.known = torch.where(self._alone(), self.known, torch.zeros_like(self.known))
        self.excess = self._excess()
        self.decided = self.final and not self.hopeless and self.excess <= 0
        intruder = self.bound < question.epsilon
        self.named = self.decided and not (bool(intruder.any()) and bool((intruder & self._novelty_unsure()).any()))

    @property
    def shape(self) -> tuple[int, int]:
        m, n = self.space.operator.shape[1:]
        return (m, n) if (self.side == "left") != self.through else (n, m)

    @property
    def dimension(self) -> int:
        """Of the space that the compared vectors live in."""
        return self.shape[0 if self.side == "left" else 1]

    def _best(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the largest cosine proven with one base direction, the largest any witness may have, and the largest
        projection proven on a tie that is small enough to explain it."""
        witnesses, k = self.witnesses, len(self.error)
        nothing = torch.zeros(k, dtype=torch.float64)
        if not len(witnesses.values):
            return nothing, nothing, nothing
        groups = int(witnesses.label[-1]) + 1
        size = torch.bincount(witnesses.label, minlength=groups)
        empty = torch.zeros(groups, k, dtype=torch.float64)
        projection = empty.index_add(0, witnesses.label, witnesses.cosines.square()).sqrt()
        off = torch.zeros(groups, dtype=torch.float64).scatter_reduce(0, witnesses.label, witnesses.errors, "amax")
        lower = (projection - off[:, None] - self.error).clamp_min(0)
        tied = (size > 1) & (size / self.dimension <= self.question.epsilon**2)
        single = torch.where((size == 1)[:, None], lower, empty).amax(0)
        return (
            single,
            (projection + off[:, None] + self.error).amax(0),
            torch.where(tied[:, None], lower, empty).amax(0),
        )

    def _tighten(self) -> None:
        """Bound what no witness explains on every eigenvector there may be, where that may decide a vector.

        Where some vector cannot be decided yet, `elsewhere` is an estimate of its bound, and `final` is false.
        """
        wanted = torch.maximum(self.known, torch.full_like(self.known, self.question.epsilon))
        open_ = self.elsewhere >= wanted
        self.final = not bool(open_.any())
        if self.final or self.hopeless:
            return
        if self.through:
            self.low = self._lowest()
            if self.low >= self.high:
                return
        atom = AtomBound(self.ritz, self.e[:, open_], over_value=self.through)
        undecided = self.known[open_] < self.question.epsilon
        estimate = atom.obstruction(self.low, self.high) + self.error[open_]
        if not bool((undecided & (estimate >= self.question.epsilon)).any()):
            self.final = True
            target = (wanted - self.error).clamp_min(0)[open_]
            estimate = atom.largest(self.low, self.high, target) + self.error[open_]
        self.elsewhere[open_] = torch.minimum(self.elsewhere[open_], estimate)

    def _lowest(self) -> float:
        """Return a value that every eigenvalue of M exceeds, by all but a small chance; inf where none does."""
        values, columns = self.ritz.values[0], self.space.width - len(self.error)
        least, edge = float(values[-1]), float(values[min(len(self.witnesses.values), len(values) - 1)])
        for share in _BELOW_LEAST:
            low = share * least
            if low <= 4 * float(self.ritz.rounding[0]) or edge <= least:
                break
            beyond = (least - low) / (edge - least)
            chance = chance_hidden(beyond, self.space.steps, self.space.operator.shape[1], columns)
            if chance <= _SURE:
                self.missed = min(1.0, self.missed + chance)
                return low
        return float("inf")

    def _alone(self) -> torch.Tensor:
        return torch.bincount(self.together)[self.together] == 1

    def _over_clusters(self, bound: torch.Tensor) -> torch.Tensor:
        """Bound every unit vector of a cluster of tuned vectors by the root of the sum of squares of its basis."""
        total = torch.zeros_like(bound).index_add(0, self.together, bound.square())
        return total[self.together].sqrt()

    def _excess(self) -> float:
        """By how much the worst vector's bound exceeds what would decide it; 0 when all are decided."""
        epsilon = self.question.epsilon
        kept, intruder = self.known >= epsilon, self.bound < epsilon
        tied = ~intruder & (self.tie >= epsilon) & self._alone()
        return float(torch.where(kept | intruder | tied, 0.0, (self.bound - epsilon).clamp_min(_LEAST_EXCESS)).amax())

    def _novelty_unsure(self) -> torch.Tensor:
        """Whether the share outside the base's top space may lie on either side of the line that names it."""
        span, line, values = self.question.span, self.question.rotated_below, self.ritz.values[0]
        off = 2 * (self.error + self.witnesses.space_error)
        most = 1 - self.witnesses.cosines[:span].square().sum(0)
        unknown = max(0, span - len(self.witnesses.values))
        if not unknown:
            return (most + off > line) & (most - off <= line)
        # The base directions up to the span that are no witnesses have values of at least their Ritz values.
        low = max(self.low, float(values[span - 1])) if span <= len(values) else self.low
        each = self.elsewhere
        if 0 < low < self.high:
            atom = AtomBound(self.ritz, self.e, over_value=self.through)
            each = torch.minimum(each, atom.largest(low, self.high, torch.full_like(most, _SMALL)) + self.error)
        return (most + off > line) & (most - off - unknown * each.square() <= line)

    def resemblance(self) -> Resemblance:
        return Resemblance(
            side=self.side,
            shape=self.shape,
            cosines=self.witnesses.cosines,
            base_values=self.witnesses.values.clamp_min(0).sqrt(),
            elsewhere=self.elsewhere,
            found=torch.minimum(self.known, self.bound),
            bound=self.bound,
            residual=self.residual,
            steps=self.space.steps,
            missed=self.missed,
        )


def _witnesses(ritz: Ritz, e: torch.Tensor, tie: float, shape: tuple[int, int], through: bool) -> _Witnesses:
    """Return the leading Ritz pairs that are base directions; tied ones in whole clusters only.

    Their error is residual over gap: of M for the vectors of its own side, and by Wedin's theorem in singular
    values for those of the other side, whose cosines are coordinates over singular values.
    """
    values, residuals = ritz.values[0], ritz.residuals()[0]
    roots = values.clamp_min(1e-300).sqrt()
    joined = roots[:-1] - roots[1:] <= (tie * roots[:-1]).clamp_min(resolution(roots, shape))
    label = torch.cat([torch.zeros(1, dtype=torch.long), (~joined).long().cumsum(0)])
    scale, off = (roots, residuals / roots) if through else (values, residuals)
    gap = torch.where(joined, torch.inf, (scale[:-1] - scale[1:] - off[1:]).clamp_min(0))
    around = torch.minimum(torch.cat([gap.new_full((1,), torch.inf), gap]), torch.cat([gap, gap.new_zeros(1)]))
    least = torch.full_like(values, torch.inf).scatter_reduce(0, label, around, "amin")[label].clamp_min(1e-300)
    errors = (off / least).clamp_max(2.0)
    q = int(((errors <= _CONVERGED) & (values > 4 * ritz.rounding)).long().cumprod(0).sum())
    while q and q < len(label) and label[q] == label[q - 1]:
        q -= 1
    space_error = float(off[:q].norm() / gap[q - 1].clamp_min(1e-300)) if 0 < q <= len(gap) else 0.0
    cosines = e[:q].abs() / roots[:q, None] if through else e[:q].abs()
    return _Witnesses(values[:q], cosines.clamp_max(1), errors[:q], label[:q], space_error)
