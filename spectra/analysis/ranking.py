"""Which of these models behaves most like full fine-tuning, by evidence, with what follows from it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from spectra.analysis.diagnosis import Diagnosis
from spectra.text import percent

PAPER = "Shuttleworth et al., arXiv:2410.21228"
BIDERMAN = "Biderman et al., arXiv:2405.09673"
RSLORA = "Kalajdzievski, arXiv:2312.03732"
FEW, MANY = 0.05, 0.20


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence, the numbers it stands on, and the source of the idea."""

    text: str
    numbers: dict[str, float | None]
    source: str


@dataclass(frozen=True, slots=True)
class Standing:
    """A model's place. share : intruders (rotated or new) among the directions examined."""

    place: int
    name: str
    method: str
    share: float
    intruders: int
    examined: int
    effective_rank: float
    update_ratio: float
    claims: tuple[Claim, ...]

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
    model = models[name]
    summary = model.summary
    return Standing(
        place=position,
        name=name,
        method=summary["method"],
        share=share_of(model),
        intruders=summary["rotated"] + summary["new"],
        examined=summary["examined"],
        effective_rank=summary["effective_rank"] or 0.0,
        update_ratio=summary["update_ratio"] or 0.0,
        claims=tuple(_claims(model, models)),
    )


def _claims(model: Diagnosis, models: Mapping[str, Diagnosis]) -> list[Claim]:
    summary = model.summary
    if not summary["measured"]:
        return [Claim("No matrix of this model changed: there is nothing to judge.", {}, "dW = 0")]
    share = share_of(model)
    claims = [_about_intruders(summary, share)]
    if summary["method"] != "full fine-tuning":
        claims += _about_rank(summary, _full_rank(models))
        if share >= FEW:
            claims.append(_remedy(summary))
    return claims


def _about_intruders(summary: Mapping[str, Any], share: float) -> Claim:
    found = summary["rotated"] + summary["new"]
    numbers = {"intruders": found, "examined": summary["examined"], "share": share}
    counted = f"{found} of {summary['examined']} leading directions ({percent(share)}) are intruders"
    if share < FEW:
        return Claim(f"{counted}: in this respect it behaves like full fine-tuning.", numbers, f"{PAPER}, sec. 4")
    if share < MANY:
        return Claim(f"{counted}: some of the base's leading directions gave way.", numbers, f"{PAPER}, sec. 4")
    return Claim(
        f"{counted}: expect more forgetting of the pre-training distribution; measure it, replications disagree on "
        "how much follows.",
        numbers,
        f"{PAPER}, sec. 5",
    )


def _full_rank(models: Mapping[str, Diagnosis]) -> float | None:
    ranks = [
        model.summary["effective_rank"]
        for model in models.values()
        if model.summary["method"] == "full fine-tuning" and model.summary["effective_rank"]
    ]
    return max(ranks, default=None)


def _about_rank(summary: Mapping[str, Any], full: float | None) -> list[Claim]:
    effective = summary["effective_rank"]
    if full is None:
        return []
    times = full / effective
    text = (
        f"Its update has effective rank {effective:.1f}, full fine-tuning here {full:.1f}: {times:.1f} times as many."
    )
    return [Claim(text, {"effective_rank": effective, "full": full, "times": times}, f"{BIDERMAN}, sec. 4.5")]


def _remedy(summary: Mapping[str, Any]) -> Claim:
    ranks = summary["allotted_ranks"]
    highest = max(ranks) if ranks else 0
    text = (
        f"To come closer to full fine-tuning: a rank above {highest}, rsLoRA (its scale does not shrink with rank), "
        "alpha = 2r, or a smaller scale."
    )
    return Claim(text, {"rank": highest, "utilisation": summary["utilisation"]}, f"{PAPER}, sec. 4; {RSLORA}")
