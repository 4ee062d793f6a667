"""Two models of one base over the matrices that both change: intruders, rank and size, like with like.

A full fine-tune changes matrices that an adapter leaves alone, so that totals of whole models compare different
things. Everything here is summed over the same matrices.
"""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from spectra.analysis.diagnosis import Diagnosis
from spectra.metrics.intruders import SWEEP_EPSILON, Intruders
from spectra.metrics.layer import Layer
from spectra.metrics.ranks import Ranks

MORE, EQUAL, FEWER, OPEN = "more", "equal", "fewer", "open"


@dataclass(frozen=True, slots=True)
class Tally:
    """At how many settings one model has more intruders than the other, as many, fewer, or it is not decided."""

    more: int
    equal: int
    fewer: int
    open: int

    @property
    def total(self) -> int:
        return self.more + self.equal + self.fewer + self.open


@dataclass(frozen=True, slots=True)
class EqualSize:
    """What two models have where the larger update is scaled to the size of the smaller: W0 + scale dW.

    scaled : the model that is scaled. intruders : rotated or new, (model, reference). failed : matrices that could
    not be measured at that scale, left out of both counts.
    """

    scaled: str
    scale: float
    intruders: tuple[int, int]
    failed: int


@dataclass(frozen=True, slots=True)
class SideBySide:
    """A model beside another, the reference; pairs of numbers are (model, reference).

    matrices : that both change and that were measured in both; examined : their leading directions.
    intruders : rotated or new, at the k and epsilon of the analysis; ties : intruders that only reflect ties of the
    base, over both models.
    over_epsilon : the order of the paper's counts at each threshold of `SWEEP_EPSILON`; over_k : among the leading
    1, 2, .. k directions at the epsilon of the analysis. Both are decided by proven intervals, else open.
    size : `||dW|| / ||dW_ref||`, Frobenius norms over all these matrices.
    effective, above_floor : medians of the update's effective rank and of its values above rounding; error : medians
    of the half widths of the effective ranks, 0 where they are exact. above_floor is None where that of a matrix is
    unknown, as of packed weights. equal : both at one size, None where that was
    not asked for.
    """

    name: str
    reference: str
    matrices: int
    examined: int
    intruders: tuple[int, int]
    ties: int
    over_epsilon: Tally
    over_k: Tally
    size: float
    effective: tuple[float, float]
    above_floor: tuple[float | None, float | None]
    error: tuple[float, float]
    equal: EqualSize | None = None

    @property
    def order(self) -> str:
        """Whether the model has "more" intruders than the reference, "fewer", or an "equal" number."""
        return _order((self.intruders[0],) * 2, (self.intruders[1],) * 2)


@dataclass(frozen=True, slots=True)
class LineUp:
    """Models held against one of them: the pairs, and those that change no matrix in common with it."""

    reference: str
    pairs: tuple[SideBySide, ...]
    apart: tuple[str, ...]


def full_of(models: Mapping[str, Diagnosis]) -> str | None:
    """Name the full fine-tune to hold the others against: the first that changed anything."""
    found = (name for name, model in models.items() if model.summary["method"] == "full fine-tuning")
    return next((name for name in found if models[name].summary["measured"]), None)


def share_of(model: Diagnosis) -> float | None:
    """Return the share of the directions examined that are rotated or new intruders, None where none was examined."""
    summary = model.summary
    return (summary["rotated"] + summary["new"]) / summary["examined"] if summary["examined"] else None


def line_up(models: Mapping[str, Diagnosis]) -> LineUp | None:
    """Hold every model against the full fine-tune, or where there is none against the one with fewest intruders.

    None where no model has a measured matrix.
    """
    measured = [name for name in models if models[name].summary["measured"]]
    if not measured:
        return None
    reference = full_of(models) or min(measured, key=lambda name: _fewest_first(name, models[name]))
    others = [name for name in measured if name != reference]
    pairs = tuple(pair for name in others if (pair := side_by_side(models, name, reference)))
    return LineUp(reference, pairs, tuple(name for name in others if name not in {pair.name for pair in pairs}))


def _fewest_first(name: str, model: Diagnosis) -> tuple[float, float, str]:
    """The share of intruders; of equal ones the highest effective rank first, then by name."""
    return share_of(model) or 0.0, -(model.summary["effective_rank"] or 0.0), name


def side_by_side(models: Mapping[str, Diagnosis], name: str, reference: str) -> SideBySide | None:
    """Put one model beside another. None where they change no matrix in common."""
    common = shared_rows(models[name], models[reference])
    if not common:
        return None
    ours, theirs = ([pair[at] for pair in common] for at in (0, 1))
    options = models[name].provenance
    k, epsilon = options["k"], options["epsilon"]
    return SideBySide(
        name=name,
        reference=reference,
        matrices=len(common),
        examined=sum(layer.examined for layer in ours),
        intruders=(real_intruders(ours), real_intruders(theirs)),
        ties=sum(side.degenerate for side in _sides([*ours, *theirs])),
        over_epsilon=_tally(ours, theirs, [(k, threshold) for threshold in SWEEP_EPSILON]),
        over_k=_tally(ours, theirs, [(leading, epsilon) for leading in range(1, k + 1)]),
        size=_norm(ours) / _norm(theirs),
        effective=(_middle(_ranks(ours), "effective"), _middle(_ranks(theirs), "effective")),
        above_floor=(_above_floor(ours), _above_floor(theirs)),
        error=(_error(ours), _error(theirs)),
    )


def size_beside(model: Diagnosis, reference: Diagnosis) -> float | None:
    """Return `||dW|| / ||dW_ref||` over the matrices that both change, None where there is none."""
    common = shared_rows(model, reference)
    return _norm([ours for ours, _ in common]) / _norm([theirs for _, theirs in common]) if common else None


def shared_rows(model: Diagnosis, reference: Diagnosis) -> list[tuple[Layer, Layer]]:
    """The rows of every matrix that was measured in both."""
    known = {(layer.key, layer.index): layer for layer in reference.rows if layer.ok}
    return [
        (layer, known[layer.key, layer.index]) for layer in model.rows if layer.ok and (layer.key, layer.index) in known
    ]


def shared_by(models: Sequence[Diagnosis]) -> list[list[Layer]]:
    """The rows of each model for the matrices that were measured in all of them, in one order."""
    known = [{(layer.key, layer.index): layer for layer in model.rows if layer.ok} for model in models]
    common = [place for place in known[0] if all(place in rows for rows in known)] if known else []
    return [[rows[place] for place in common] for rows in known]


def _sides(layers: Iterable[Layer]) -> Iterator[Intruders]:
    return (side for layer in layers for side in layer.intruders)


def real_intruders(layers: Sequence[Layer]) -> int:
    """Count the intruders that are not mere ties of the base."""
    return sum(side.rotated + side.new for side in _sides(layers))


def effective_rank(layers: Sequence[Layer]) -> tuple[float, float]:
    """The ends of the median effective rank of the updates; one value where it is exact, 0 of no update."""
    middle, error = (_middle(_ranks(layers), "effective"), _error(layers)) if layers else (0.0, 0.0)
    return middle - error, middle + error


def _tally(ours: Sequence[Layer], theirs: Sequence[Layer], settings: Sequence[tuple[int, float]]) -> Tally:
    found = [_order(count_bounds(ours, k, epsilon), count_bounds(theirs, k, epsilon)) for k, epsilon in settings]
    return Tally(*(found.count(word) for word in (MORE, EQUAL, FEWER, OPEN)))


def count_bounds(layers: Sequence[Layer], k: int, epsilon: float) -> tuple[int, int]:
    """Fewest and most intruders of the paper's definition that the intervals of the similarities allow."""
    least = sum(value < epsilon for side in _sides(layers) for value in side.similarity_bound[:k])
    most = sum(value < epsilon for side in _sides(layers) for value in side.similarity[:k])
    return least, most


def _order(ours: tuple[int, int], theirs: tuple[int, int]) -> str:
    """Compare two counts, each known as (fewest, most)."""
    if ours[0] > theirs[1]:
        return MORE
    if ours[1] < theirs[0]:
        return FEWER
    return EQUAL if ours == theirs and ours[0] == ours[1] else OPEN


def _norm(layers: Sequence[Layer]) -> float:
    return float(sum(layer.norm.update**2 for layer in layers if layer.norm) ** 0.5)


def _ranks(layers: Sequence[Layer]) -> list[Ranks]:
    return [layer.rank for layer in layers if layer.rank]


def _above_floor(layers: Sequence[Layer]) -> float | None:
    known = [rank.above_floor for rank in _ranks(layers)]
    return None if None in known else float(statistics.median(number for number in known if number is not None))


def _middle(ranks: Sequence[Ranks], name: str) -> float:
    return float(statistics.median(getattr(rank, name) for rank in ranks))


def _error(layers: Sequence[Layer]) -> float:
    return float(statistics.median(rank.error.effective if rank.error else 0.0 for rank in _ranks(layers)))
