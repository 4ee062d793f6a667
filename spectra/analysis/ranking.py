"""The order of models by evidence: nearest to a full fine-tune where one is compared, else fewest intruders.

One model stands before another only where no number says otherwise. A count at one threshold alone would order models
that other thresholds, the new ones among the intruders or the rank of the update order the other way round: such models
are tied, and a sentence says which number speaks for which.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np

from spectra.analysis.advice import advice
from spectra.analysis.claims import Claim
from spectra.analysis.diagnosis import Diagnosis
from spectra.analysis.nearness import ALIKE, Number, ahead, places
from spectra.analysis.side_by_side import (
    LineUp,
    count_bounds,
    effective_rank,
    full_of,
    real_intruders,
    share_of,
    shared_by,
)
from spectra.metrics.intruders import SWEEP_EPSILON
from spectra.metrics.layer import Layer
from spectra.text import count, listing, percent, show

_NAMED = 4
_FULL = "full fine-tuning"


@dataclass(frozen=True, slots=True)
class Standing:
    """A model's place. share : intruders (rotated or new) among the directions examined, None where there are none.

    place : from 1, which a full fine-tune has that the others are held against; None where nothing orders the models,
    or nothing was measured of this one. tied : whether other models share the place. effective_rank, update_ratio :
    medians over all matrices that the model changes, None where there is none. advice : what would bring an adapter
    closer to full fine-tuning, None where nothing has to.
    """

    place: int | None
    tied: bool
    name: str
    method: str
    share: float | None
    intruders: int
    examined: int
    effective_rank: float | None
    update_ratio: float | None
    advice: Claim | None

    @property
    def label(self) -> str:
        """The place as it is shown: "2", "2=" where it is shared, nothing where there is none."""
        return "" if self.place is None else f"{self.place}=" if self.tied else str(self.place)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Ranking:
    """Models in order. title, headline, rule : what the order is, what it gives, and how it is decided.

    ties : what the numbers say of models that share a place.
    """

    title: str
    headline: str
    rule: str
    standings: tuple[Standing, ...]
    ties: tuple[Claim, ...] = ()


@dataclass(frozen=True, slots=True)
class _Field:
    """The models that can be ordered. reference : the full fine-tune to be near to, None where there is none.

    rows : of the reference first, then of each model, over the matrices that all of them change.
    """

    names: tuple[str, ...]
    reference: str | None
    rows: tuple[list[Layer], ...]
    adapters: bool

    @property
    def leaders(self) -> tuple[str, ...]:
        return (self.reference,) if self.reference else ()

    @property
    def matrices(self) -> int:
        return len(self.rows[0])


def rank_models(models: Mapping[str, Diagnosis], lined_up: LineUp | None) -> Ranking:
    """Order models by how near their numbers come to those of a full fine-tune, or by intruders where there is none.

    The numbers are taken over the matrices that all of them change: intruders (rotated or new), the new ones, the
    paper's counts at each threshold of `SWEEP_EPSILON`, and with a full fine-tune the effective rank (median) and the
    difference in intruders at equal size where that was counted. A model is nearer by a number where it lies closer to
    the full fine-tune's, or without one to 0 (`nearness.Number`). It stands before another where some number says so
    and none the opposite; models that this does not part share a place. Adapters are ordered by their nearness to the
    first full fine-tune; where there are only full fine-tunes, or none, all are ordered by intruders.
    """
    field = _field(models, lined_up)
    told = _nothing_to_order(models, field, lined_up)
    if told is not None:
        return _in_order_given(models, field, *told)
    numbers = _numbers(models, field, lined_up)
    groups = [[field.names[at] for at in group] for group in places(ahead(numbers), field.names)]
    ties = tuple(_tie(field, group, numbers) for group in groups if len(group) > 1)
    return Ranking(
        _title(field, groups),
        ties[0].text if len(groups) == 1 else _headline(field, groups),
        _rule(field, numbers) + _spans(models, field),
        _standings(models, _places(field, groups)),
        ties,
    )


def _field(models: Mapping[str, Diagnosis], lined_up: LineUp | None) -> _Field:
    kinds = {model.summary["method"] == _FULL for model in models.values() if model.summary["measured"]}
    reference = full_of(models) if len(kinds) == 2 else None
    left_out = (reference, *(lined_up.apart if lined_up else ()))
    names = [name for name, model in models.items() if model.summary["measured"] and name not in left_out]
    rows = shared_by([models[name] for name in ([reference] if reference else []) + names])
    return _Field(tuple(names), reference, tuple(rows), False in kinds)


def _nothing_to_order(
    models: Mapping[str, Diagnosis], field: _Field, lined_up: LineUp | None
) -> tuple[str, str] | None:
    """The headline, and the reason why models are in no order; None where they can be put in one."""
    if lined_up is None:
        return "Nothing was measured.", ""
    if len(field.leaders) + len(field.names) == 1:
        return _share((*field.leaders, *field.names)[0], models), ""
    if len(field.names) == 1:
        (pair,) = (pair for pair in lined_up.pairs if pair.name == field.names[0])
        held = f"{pair.intruders[0]} against {pair.intruders[1]} of {pair.examined} leading directions are intruders."
        return f"{show(pair.name)} beside {show(pair.reference)}: {held}", _spans(models, field).strip()
    if not field.matrices:
        return "No matrix is changed by all of these models.", "Models are ordered over what all change: in no order."
    if field.reference is None and not any(map(real_intruders, field.rows)):
        none = f"None of the {count(len(field.names), 'model')} has an intruder."
        return none, f"{_without(field)}, and none has an intruder: in no order."
    return None


def _without(field: _Field) -> str:
    return "None of them is a full fine-tune" if field.adapters else "All of them are full fine-tunes"


def _share(name: str, models: Mapping[str, Diagnosis]) -> str:
    summary = models[name].summary
    real = summary["rotated"] + summary["new"]
    return f"{show(name)}: {real} of {summary['examined']} leading directions are intruders."


def _in_order_given(models: Mapping[str, Diagnosis], field: _Field, headline: str, reason: str) -> Ranking:
    judged = (*field.leaders, *field.names)
    names = [*judged, *(name for name in models if name not in judged)]
    title = "The model" if len(models) == 1 else "The models"
    return Ranking(title, headline, reason, _standings(models, dict.fromkeys(names, (None, False))))


def _numbers(models: Mapping[str, Diagnosis], field: _Field, lined_up: LineUp | None) -> list[Number]:
    """What models are told apart by, the count at the epsilon of the analysis first."""
    options = models[field.names[0]].provenance
    k, epsilon = options["k"], options["epsilon"]
    counts = [
        _number(f"intruders at epsilon {epsilon:g}", field, lambda rows: _exactly(real_intruders(rows))),
        _number("new ones among them", field, lambda rows: _exactly(_new(rows))),
        *(
            _number(f"epsilon {at:g}", field, partial(count_bounds, k=k, epsilon=at))._replace(threshold=at)
            for at in SWEEP_EPSILON
        ),
    ]
    if field.reference is None:
        return counts
    return [*counts, *_at_equal_size(field, lined_up), _number("effective rank", field, effective_rank)]


def _number(what: str, field: _Field, of: Callable[[list[Layer]], tuple[float, float]]) -> Number:
    target, *own = map(of, field.rows if field.reference else ([], *field.rows))
    low, high = np.array(own, dtype=float).T
    return Number(what, low, high, target)


def _exactly(value: float) -> tuple[float, float]:
    return value, value


def _new(rows: Sequence[Layer]) -> int:
    return sum(side.new for layer in rows for side in layer.intruders)


def _at_equal_size(field: _Field, lined_up: LineUp | None) -> list[Number]:
    """How far each lies from the full fine-tune in intruders at one size, where all were counted in these matrices."""
    known = {pair.name: pair for pair in lined_up.pairs} if lined_up else {}
    pairs = [known[name] for name in field.names]
    if any(pair.equal is None or pair.equal.failed or pair.matrices != field.matrices for pair in pairs):
        return []
    off = np.array([abs(pair.equal.intruders[0] - pair.equal.intruders[1]) for pair in pairs if pair.equal], float)
    return [Number(f"difference from {show(field.reference)} in intruders at equal size", off, off)]


def _places(field: _Field, groups: Sequence[Sequence[str]]) -> dict[str, tuple[int | None, bool]]:
    """The place of each model, and whether others share it: the full fine-tune first, then group by group."""
    held: dict[str, tuple[int | None, bool]] = dict.fromkeys(field.leaders, (1, False))
    for group in groups:
        held |= dict.fromkeys(group, (len(held) + 1, len(group) > 1))
    return held


def _standings(models: Mapping[str, Diagnosis], places: Mapping[str, tuple[int | None, bool]]) -> tuple[Standing, ...]:
    """The models as placed, and after them those without a place."""
    rest = {name: (None, False) for name in models if name not in places}
    return tuple(_standing(name, place, tied, models) for name, (place, tied) in (*places.items(), *rest.items()))


def _standing(name: str, place: int | None, tied: bool, models: Mapping[str, Diagnosis]) -> Standing:
    summary = models[name].summary
    return Standing(
        place=place,
        tied=tied,
        name=name,
        method=summary["method"],
        share=share_of(models[name]),
        intruders=summary["rotated"] + summary["new"],
        examined=summary["examined"],
        effective_rank=summary["effective_rank"],
        update_ratio=summary["update_ratio"],
        advice=advice(name, models),
    )


def _title(field: _Field, groups: Sequence[Sequence[str]]) -> str:
    if len(groups) == 1:
        return f"Beside {show(field.reference)}, in no order" if field.reference else "In no order"
    return f"Nearest to {show(field.reference)} first" if field.reference else "Fewest intruders first"


def _headline(field: _Field, groups: Sequence[Sequence[str]]) -> str:
    ends = [listing(group, _NAMED) for group in (groups[0], groups[-1])]
    if field.reference:
        return f"Nearest to {show(field.reference)}: {ends[0]}; furthest: {ends[1]}."
    return f"Fewest intruders: {ends[0]}; most: {ends[1]}."


def _question(field: _Field, group: Sequence[str]) -> str:
    asked = f"is nearer to {show(field.reference)}" if field.reference else "has fewer intruders"
    return f"{listing(group, _NAMED)}: which {asked} depends on what is asked."


def _spans(models: Mapping[str, Diagnosis], field: _Field) -> str:
    """Say what the table counts where it is not what the sentences compare."""
    if all(model.summary["measured"] == field.matrices for model in models.values()):
        return ""
    return " The table counts all matrices that a model changes, the sentences those that the models compared share."


def _rule(field: _Field, numbers: Sequence[Number]) -> str:
    """The rule in a line, with the numbers that it looks at."""
    named = ", ".join(number.what for number in numbers if number.threshold is None)
    alone = "" if field.reference else f"{_without(field)}. "
    return (
        f"{alone}A model is placed before another only where no number says the opposite; = is a tie. The numbers: "
        f"{named}, intruders at {len(SWEEP_EPSILON)} thresholds, in the "
        f"{count(field.matrices, 'matrix', 'matrices')} that all change; those within {percent(ALIKE - 1)} of each "
        "other are alike."
    )


def _tie(field: _Field, group: Sequence[str], numbers: Sequence[Number]) -> Claim:
    """What each number says of models that share a place."""
    at = [field.names.index(name) for name in group]
    nearer = [number.nearer()[np.ix_(at, at)] for number in numbers]
    disagree = any(one.any() for one in nearer)
    lines = [_line(field, at, number) for number in numbers if number.threshold is None]
    best: dict[int, list[str]] = {}
    for number, wins in zip(numbers, nearer, strict=True):
        first = np.flatnonzero(wins.sum(1) == len(group) - 1)
        if number.threshold is not None and len(first):
            best.setdefault(int(first[0]), []).append(f"{number.threshold:g}")
    if best:
        won = (f"{show(group[one])} at {listing(thresholds)}" for one, thresholds in best.items())
        lines.append(f"intruders at other thresholds, nearest: {'; '.join(won)}")
    return Claim(
        _question(field, group) if disagree else f"{listing(group, _NAMED)}: alike in every number.", (*lines,)
    )


def _line(field: _Field, at: Sequence[int], number: Number) -> str:
    """The values of one number, the nearest first: 'new ones among them: r32 3, r2 19 (full 0)'."""
    far = np.maximum(number.high - number.target[0], number.target[1] - number.low)
    order = sorted(at, key=lambda one: far[one])
    values = [f"{show(field.names[one])} {_value(number.low[one], number.high[one])}" for one in order]
    target = f" ({show(field.reference)} {_value(*number.target)})" if field.reference else ""
    return f"{number.what}: {listing(values, _NAMED)}{target}"


def _value(low: float, high: float) -> str:
    least, most = (f"{value:.0f}" if value % 1 == 0 else f"{value:.1f}" for value in (low, high))
    return least if least == most else f"{least} to {most}"
