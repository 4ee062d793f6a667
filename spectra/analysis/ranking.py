"""Which of these models behaves most like full fine-tuning, by evidence, and what would bring each closer."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from spectra.analysis.claims import LARGER, RSLORA, SHUTTLEWORTH, Claim
from spectra.analysis.diagnosis import Diagnosis
from spectra.analysis.side_by_side import full_of, size_beside
from spectra.text import percent, show

FEW = 0.05
_USED = 0.8


@dataclass(frozen=True, slots=True)
class Standing:
    """A model's place. share : intruders (rotated or new) among the directions examined.

    advice : what would bring an adapter closer to full fine-tuning, None where nothing has to.
    """

    place: int
    name: str
    method: str
    share: float
    intruders: int
    examined: int
    effective_rank: float
    update_ratio: float
    advice: Claim | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def rank_models(models: Mapping[str, Diagnosis]) -> tuple[Standing, ...]:
    """Rank models from most to least like full fine-tuning: fewest intruders, then highest rank.

    Intruders that only reflect ties of the base (degenerate) do not count. Models without a single
    measured matrix come last.
    """
    order = sorted(models, key=lambda name: _evidence(models[name]))
    return tuple(_standing(position, name, models) for position, name in enumerate(order, 1))


def share_of(model: Diagnosis) -> float:
    """Return the share of examined directions that are rotated or new intruders."""
    examined = model.summary["examined"]
    return (model.summary["rotated"] + model.summary["new"]) / examined if examined else 0.0


def _evidence(model: Diagnosis) -> tuple[bool, float, float]:
    return not model.summary["measured"], share_of(model), -(model.summary["effective_rank"] or 0.0)


def _standing(position: int, name: str, models: Mapping[str, Diagnosis]) -> Standing:
    summary = models[name].summary
    return Standing(
        place=position,
        name=name,
        method=summary["method"],
        share=share_of(models[name]),
        intruders=summary["rotated"] + summary["new"],
        examined=summary["examined"],
        effective_rank=summary["effective_rank"] or 0.0,
        update_ratio=summary["update_ratio"] or 0.0,
        advice=_advice(name, models),
    )


def _advice(name: str, models: Mapping[str, Diagnosis]) -> Claim | None:
    model = models[name]
    if not model.summary["measured"]:
        return Claim("No matrix of this model changed or could be measured: there is nothing to judge.")
    if model.summary["method"] == "full fine-tuning" or share_of(model) < FEW:
        return None
    return _remedy(name, models)


def _remedy(name: str, models: Mapping[str, Diagnosis]) -> Claim | None:
    """What brings an adapter closer to full fine-tuning, leaving out what it already has."""
    summary, info, full = models[name].summary, models[name].info, full_of(models)
    times = size_beside(models[name], models[full]) if full else None
    options, evidence = [], []
    if times is None:
        options.append("a smaller scale")
    elif times > LARGER:
        options.append("a smaller scale or learning rate")
        evidence.append(f"its update is {times:.3g} times as large as {show(full)}'s")
    if info.ranks and (summary["utilisation"] or 0) > _USED:
        options.append(f"a rank above {info.ranks[-1]}")
        evidence.append(f"it uses {percent(summary['utilisation'])} of its rank")
    if info.method == "LoRA":
        options.append("rsLoRA, whose scale does not shrink with rank")
    if info.scalings and max(info.scalings) > 2:
        options.append("alpha = 2r")
    if not options:
        return None
    return Claim(
        f"To come closer to full fine-tuning: {', '.join(options)}.",
        ("; ".join(evidence),) if evidence else (),
        (*_against_rank(name, models), "found on the paper's models; each of these may cost accuracy on the task"),
        (SHUTTLEWORTH, RSLORA),
    )


def _against_rank(name: str, models: Mapping[str, Diagnosis]) -> tuple[str, ...]:
    """Name a model compared that has a higher rank and no fewer intruders: here rank alone did not help."""
    own, share = max(models[name].info.ranks, default=0), share_of(models[name])
    higher = (other for other, model in models.items() if own and max(model.info.ranks, default=0) > own)
    worse = next((other for other in higher if share_of(models[other]) >= share), None)
    return (f"rank alone did not do it here: {show(worse)} has a higher one and no fewer intruders",) if worse else ()
