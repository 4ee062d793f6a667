"""The certified path: is a leading tuned direction an intruder, without a decomposition of either matrix.

1. The top k triplets of W by block Krylov (`leading`), each with the error of its vectors.
2. A Krylov space of the base from those vectors and a few random ones. Its converged leading Ritz pairs are
   base directions: a large cosine with one is a witness that the vector was kept.
3. What no witness explains is bounded on every eigenvector of `W0 W0^T` (`certificate`): below epsilon
   everywhere, the vector is an intruder, proven.
4. The space grows until every vector is decided. Where growing cannot help, the exact path takes over.

Everything is batched over matrices of one shape and stays on their device; a look reads back a few flags.
"""

from dataclasses import dataclass

import torch

from spectra.engine.certificate import AtomBound, chance_hidden
from spectra.engine.decomposition import resolution
from spectra.engine.krylov import Krylov, Operator, Ritz, random_rows
from spectra.engine.leading import Leading, over_clusters, width_for
from spectra.engine.resemblance import Resemblance, Side

_LOOKS = (6, 12)  # steps at which the space is looked at; then as the trend says
_LOOKS_CUDA = (10, 15)  # a look costs more than some steps there
_LONGEST = 6  # most steps between two looks
_SPARE, _SPARE_NULL = 2, 12  # random columns beside the vectors; more where small values must be excluded
_CONVERGED = 1e-3  # error up to which a base direction is a witness
_SURE = 1e-6  # chance of a hidden small value above which nothing is claimed
_BELOW_LEAST = (0.7, 0.5, 0.35, 0.25, 0.12)  # shares of the least Ritz value tried as a floor of all eigenvalues
_SMALL = 0.1  # bound on a base direction's part that is small enough not to change a name
_NAMING = 16  # steps that are made for telling rotated from new alone; then a shorter span must do
_PATIENCE, _PROGRESS = 10, 0.95  # steps in which an excess that has not come down to this share has stalled
_TINY = 1e-300


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
    operator = base if side == "left" else base.transposed
    vectors = tuned.U if side == "left" else tuned.V
    through = operator.shape[1] > operator.shape[2]
    if through:  # the space lives on the smaller side, where M has no null space by its shape
        operator = operator.transposed
        vectors = operator(vectors)
    g, k, m = vectors.shape
    width = width_for(k + (_SPARE_NULL if through else _SPARE))
    most = min(most, m // width - 1)
    found: list[Resemblance | None] = [None] * g
    if most < 1:
        return found
    space = Krylov(operator, torch.cat([vectors, random_rows(g, width - k, m, vectors, seed)], 1), most)
    coordinates = (space.first_block @ vectors.mT).double()
    looks = _LOOKS_CUDA if vectors.is_cuda else _LOOKS
    members, trend, steps = list(range(g)), [], min(looks[0], most)
    best = _Progress(g)
    while True:
        space.grow(steps - space.steps)
        look = _Look(space, coordinates, tuned, question, side, through)
        enough = space.steps >= min(_NAMING, most)
        left = []
        for place, member in enumerate(members):
            if look.decided[place] and (enough or look.named[place]):
                found[member] = look.resemblance(place)
            elif look.decided[place] or not (look.hopeless[place] or best.stalled(member, space.steps, look, place)):
                left.append(place)
        if not left or space.steps >= most:
            return found
        trend.append((space.steps, max(look.excess[place] for place in left)))
        members = [members[place] for place in left]
        if len(left) < len(look.decided):
            space.keep(left)
            coordinates, tuned = coordinates[left], tuned.part(left)
        steps = min(most, _next_look(trend, looks))


class _Progress:
    """When each matrix last came nearer to a decision: its bound came down, or another base direction converged."""

    def __init__(self, g: int) -> None:
        self._excess, self._count, self._steps = [float("inf")] * g, [0.0] * g, [0] * g

    def stalled(self, member: int, steps: int, look: "_Look", place: int) -> bool:
        """Whether several steps brought it no nearer: more would not either."""
        excess, count = look.excess[place], look.count[place]
        if excess <= _PROGRESS * self._excess[member] or count > self._count[member]:
            self._excess[member], self._count[member], self._steps[member] = excess, count, steps
        return steps - self._steps[member] >= _PATIENCE


def _next_look(trend: list[tuple[int, float]], looks: tuple[int, ...]) -> int:
    """When to look again: at the first looks, then where the excess of the bound would reach zero."""
    now, excess = trend[-1]
    ahead = [look for look in looks if look > now]
    if ahead or len(trend) < 2:
        return ahead[0] if ahead else now + 1
    before, earlier = trend[-2]
    fall = (earlier - excess) / (now - before)
    return now + (_LONGEST if fall <= 0 else max(1, min(_LONGEST, round(excess / fall))))


class _Look:
    """What a space says of a batch's vectors now. Flags are lists, one entry a matrix.

    hopeless : the tuned vectors themselves are too inexact. decided : kept or intruder is settled for each.
    named : so is rotated or new. excess : by how much the worst bound exceeds what would decide it. count : base
    directions that have converged. waiting : matrices whose smallest value only more steps can make sure of; for
    them every step counts.
    """

    def __init__(
        self, space: Krylov, coordinates: torch.Tensor, tuned: Leading, question: Question, side: Side, through: bool
    ) -> None:
        self.space, self.tuned, self.question, self.side, self.through = space, tuned, question, side, through
        self.ritz = space.ritz()
        self.e = self.ritz.vectors[:, : space.width].mT @ coordinates
        self.error = tuned.error.to(self.e)[:, None]  # [g, 1, k]
        self.alone = _counts(tuned.label.to(self.e.device)) == 1
        self.witnesses = _Witnesses(self.ritz, self.e, question.tie, self.shape, through)
        epsilon = question.epsilon
        known, within, tied = self._best()
        held = self.witnesses.cosines.square().sum(1)
        rest = (1 - held).clamp_min(0).sqrt() + self.witnesses.space_error[:, None]
        self.elsewhere = (rest + self.error[:, 0]).clamp_max(1)
        self.missed = tuned.missed.to(self.e)
        self.low = torch.zeros_like(self.witnesses.space_error)
        self.waiting: list[int] = []
        self.high = self.ritz.values[:, 0] + 2 * self.ritz.residuals()[:, 0]
        self._tighten(known)
        # A unit vector of a cluster of tuned vectors is bounded by the bounds of its basis together.
        bound = torch.maximum(within, self.elsewhere)
        self.bound = over_clusters(bound.square(), tuned.label.to(bound.device)).clamp_max(1)
        self.known = torch.minimum(torch.where(self.alone, known, 0.0), self.bound)
        intruder = self.bound < epsilon
        settled = (self.known >= epsilon) | intruder | ((tied >= epsilon) & self.alone)
        excess = torch.where(settled, 0.0, (self.bound - epsilon).clamp_min(1e-6)).amax(1)
        hopeless = (self.error[:, 0] >= epsilon / 2).any(1)
        decided = settled.all(1) & self.final & ~hopeless
        named = decided & ~(intruder & self._novelty_unsure(intruder & decided[:, None])).any(1)
        excess = torch.where(decided & ~named, epsilon, excess)
        flags = torch.stack([part.double() for part in (hopeless, decided, named, excess, self.witnesses.count)]).cpu()
        self.hopeless, self.decided, self.named = (row.bool().tolist() for row in flags[:3])
        self.excess, self.count = flags[3].tolist(), flags[4].tolist()
        for place in self.waiting:
            self.count[place] += self.space.steps

    @property
    def shape(self) -> tuple[int, int]:
        _, m, n = self.space.operator.shape
        return (m, n) if (self.side == "left") != self.through else (n, m)

    @property
    def dimension(self) -> int:
        """Of the space that the compared vectors live in."""
        return self.shape[0 if self.side == "left" else 1]

    def _best(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the largest cosine proven with one base direction, the largest any witness may have, and the largest
        projection proven on a tie that is small enough to explain it. [g, k] each"""
        witnesses = self.witnesses
        size, off = witnesses.size[..., None], witnesses.off[..., None]
        projection = torch.zeros_like(witnesses.cosines)
        index = witnesses.label[..., None].expand_as(projection)
        projection = projection.scatter_add(1, index, witnesses.cosines.square()).sqrt()
        lower = (projection - off - self.error).clamp_min(0)
        upper = torch.where(size > 0, projection + off + self.error, 0.0)
        small = (size > 1) & (size / self.dimension <= self.question.epsilon**2)
        return (
            torch.where(size == 1, lower, 0.0).amax(1),
            upper.amax(1),
            torch.where(small, lower, 0.0).amax(1),
        )

    def _tighten(self, known: torch.Tensor) -> None:
        """Bound what no witness explains on every eigenvector there may be.

        Where a vector cannot be decided yet, its `elsewhere` is an estimate, and `final` is false for its matrix.
        """
        epsilon = self.question.epsilon
        wanted = known.clamp_min(epsilon)
        open_ = self.elsewhere >= wanted
        self.final = ~open_.any(1)
        if bool(self.final.all()):
            return
        if self.through:
            self.low = self._lowest()
        possible = self.low < self.high
        low = torch.where(possible, self.low, self.high / 2)
        atom = AtomBound(self.ritz, self.e, over_value=self.through)
        estimate = atom.obstruction(low, self.high) + self.error[:, 0]
        blocked = (open_ & (known < epsilon) & (estimate >= epsilon)).any(1) | ~possible
        ready = ~self.final & ~blocked
        if bool(ready.any()):
            # Members and vectors that are not waiting for it must not drive the halving.
            target = torch.where(open_ & ready[:, None], (wanted - self.error[:, 0]).clamp_min(0), torch.inf)
            proven = atom.largest(low, self.high, target) + self.error[:, 0]
            estimate = torch.where(ready[:, None], proven, estimate)
        usable = open_ & possible[:, None]
        self.elsewhere = torch.where(usable, torch.minimum(self.elsewhere, estimate), self.elsewhere)
        self.final = self.final | ready

    def _lowest(self) -> torch.Tensor:
        """Return a value that every eigenvalue of M exceeds, by all but a small chance; inf where none does. [g]"""
        values, rounding = self.ritz.values.cpu(), self.ritz.rounding.cpu()
        columns = self.space.width - self.e.shape[2]
        q = self.witnesses.count.cpu().clamp_max(values.shape[1] - 1)
        found = []
        for member, own in enumerate(values):
            low, chance = self._lowest_of(float(own[-1]), float(own[q[member]]), float(rounding[member]), columns)
            found.append(low)
            if low == float("inf") and _BELOW_LEAST[-1] * float(own[-1]) > 4 * float(rounding[member]):
                self.waiting.append(member)
            self.missed[member] = min(1.0, float(self.missed[member]) + chance)
        return torch.tensor(found).to(self.e)

    def _lowest_of(self, least: float, edge: float, rounding: float, columns: int) -> tuple[float, float]:
        for share in _BELOW_LEAST:
            low = share * least
            if low <= 4 * rounding or edge <= least:
                break
            beyond = (least - low) / (edge - least)
            chance = chance_hidden(beyond, self.space.steps, self.space.operator.shape[1], columns)
            if chance <= _SURE:
                return low, chance
        return float("inf"), 0.0

    def _novelty_unsure(self, asked: torch.Tensor) -> torch.Tensor:
        """Whether the share outside the base's top space may lie on either side of the line that names it. [g, k]"""
        if not bool(asked.any()):
            return torch.zeros_like(asked)
        span, line, values = self.question.span, self.question.rotated_below, self.ritz.values
        off = 2 * (self.error[:, 0] + self.witnesses.space_error[:, None])
        most = 1 - self.witnesses.cosines[:, :span].square().sum(1)
        unknown = (span - self.witnesses.count).clamp_min(0)[:, None]
        each = self.elsewhere
        # The base directions up to the span that are no witnesses have values of at least their Ritz values.
        low = torch.maximum(self.low, values[:, min(span, values.shape[1]) - 1])
        inside = (low > 0) & (low < self.high) & (values.shape[1] >= span)
        if bool((inside[:, None] & asked & (unknown > 0)).any()):
            atom = AtomBound(self.ritz, self.e, over_value=self.through)
            target = torch.where(asked, _SMALL, torch.inf)
            near = atom.largest(torch.where(inside, low, self.high / 2), self.high, target) + self.error[:, 0]
            each = torch.where(inside[:, None], torch.minimum(each, near), each)
        return (most + off > line) & (most - off - unknown * each.square() <= line)

    def resemblance(self, member: int) -> Resemblance:
        q = int(self.witnesses.count[member])
        return Resemblance(
            side=self.side,
            shape=self.shape,
            cosines=self.witnesses.cosines[member, :q].cpu(),
            base_values=self.ritz.values[member, :q].clamp_min(0).sqrt().cpu(),
            elsewhere=self.elsewhere[member].cpu(),
            found=self.known[member].cpu(),
            bound=self.bound[member].cpu(),
            residual=self.tuned.residual[member].cpu(),
            steps=self.space.steps,
            missed=float(self.missed[member]),
        )


class _Witnesses:
    """The converged leading Ritz pairs, which are base directions; tied ones in whole clusters only.

    count : [g]. cosines : [g, d, k], |cos| with the tuned vectors, zero beyond the count. label : [g, d], cluster of
    each; size and off : [g, d], members and error of each cluster. space_error : [g], how far their span is from
    that of the base directions. The error is residual over gap: of M for vectors of its own side, and by Wedin's
    theorem in singular values for those of the other side, whose cosines are coordinates over singular values.
    """

    def __init__(self, ritz: Ritz, e: torch.Tensor, tie: float, shape: tuple[int, int], through: bool) -> None:
        values, residuals = ritz.values, ritz.residuals()
        roots = values.clamp_min(_TINY).sqrt()
        width = torch.maximum(tie * roots[:, :-1], resolution(1.0, shape) * roots[:, :1])
        joined = roots[:, :-1] - roots[:, 1:] <= width
        self.label = torch.cat([torch.zeros_like(joined[:, :1]), ~joined], 1).long().cumsum(1)
        scale, off = (roots, residuals / roots) if through else (values, residuals)
        gap = torch.where(joined, torch.inf, (scale[:, :-1] - scale[:, 1:] - off[:, 1:]).clamp_min(0))
        infinite, nothing = torch.full_like(gap[:, :1], torch.inf), torch.zeros_like(gap[:, :1])
        around = torch.minimum(torch.cat([infinite, gap], 1), torch.cat([gap, nothing], 1))
        least = torch.full_like(values, torch.inf).scatter_reduce(1, self.label, around, "amin").gather(1, self.label)
        errors = (off / least.clamp_min(_TINY)).clamp_max(2.0)
        bad = (errors > _CONVERGED) | (values <= 4 * ritz.rounding[:, None])
        spoilt = torch.zeros_like(values).scatter_add(1, self.label, bad.double()).gather(1, self.label) > 0
        inside = (~spoilt).long().cumprod(1)
        self.count = inside.sum(1)
        mask = inside.double()
        self.size = torch.zeros_like(values).scatter_add(1, self.label, mask)
        self.off = torch.zeros_like(values).scatter_reduce(1, self.label, errors * mask, "amax")
        last = (self.count - 1).clamp_min(0)[:, None]
        after = torch.cat([gap, nothing], 1).gather(1, last)[:, 0].clamp_min(_TINY)
        self.space_error = torch.where(self.count > 0, (off * mask).norm(dim=1) / after, 0.0)
        cosines = e.abs() / roots[..., None] if through else e.abs()
        self.cosines = cosines.clamp_max(1) * mask[..., None]


def _counts(label: torch.Tensor) -> torch.Tensor:
    """Return, for every entry of a row of labels, how many of the row share its label."""
    return (label[:, :, None] == label[:, None, :]).sum(2)
