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
_LARGER, _USED = 1.25, 0.8


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
        full = _full(models)
        claims += _about_rank(summary, full)
        if share >= FEW:
            claims.append(_remedy(model, full))
    return claims


def _about_intruders(summary: Mapping[str, Any], share: float) -> Claim:
    found = summary["rotated"] + summary["new"]
    numbers = {"intruders": found, "examined": summary["examined"], "share": share}
    counted = f"{found} of {summary['examined']} leading directions ({percent(share)}) are intruders"
    if share < FEW:
        full = summary["method"] == "full fine-tuning"
        verdict = (
            "as the paper finds for full fine-tuning" if full else "in this respect it behaves like full fine-tuning"
        )
        return Claim(f"{counted}: {verdict}.", numbers, f"{PAPER}, sec. 4")
    if share < MANY:
        return Claim(f"{counted}: some of the base's leading directions gave way.", numbers, f"{PAPER}, sec. 4")
    return Claim(
        f"{counted}: expect more forgetting of the pre-training distribution, and measure it: a count is evidence, "
        "not a measurement.",
        numbers,
        f"{PAPER}, sec. 5",
    )


def _full(models: Mapping[str, Diagnosis]) -> Diagnosis | None:
    """The full fine-tune to hold an adapter against: the first that changed anything."""
    candidates = (model for model in models.values() if model.summary["method"] == "full fine-tuning")
    return next((model for model in candidates if model.summary["measured"]), None)


def _about_rank(summary: Mapping[str, Any], full: Diagnosis | None) -> list[Claim]:
    if full is None:
        return []
    effective, reached = summary["effective_rank"], full.summary["effective_rank"]
    times = reached / effective
    text = f"Its update has effective rank {effective:.1f}, full fine-tuning {reached:.1f}: {times:.1f} times that."
    numbers = {"effective_rank": effective, "full": reached, "times": times}
    return [Claim(text, numbers, f"{BIDERMAN}, sec. 4.5")]


def _remedy(model: Diagnosis, full: Diagnosis | None) -> Claim:
    """What brings an adapter closer to full fine-tuning, leaving out what it already has."""
    summary, info = model.summary, model.info
    options, numbers = [], {"rank": float(max(info.ranks, default=0)), "utilisation": summary["utilisation"]}
    size = full.summary["update_ratio"] if full else None
    if size and summary["update_ratio"] > _LARGER * size:
        numbers["times_full_size"] = times = summary["update_ratio"] / size
        options.append(f"a smaller scale or learning rate (its update is {times:.1f} times full fine-tuning's)")
    if info.ranks and (summary["utilisation"] or 0) > _USED:
        options.append(f"a rank above {info.ranks[-1]} (it uses {percent(summary['utilisation'])} of it)")
    if info.method == "LoRA":
        options.append("rsLoRA, whose scale does not shrink with rank")
    if info.scalings and max(info.scalings) > 2:
        options.append("alpha = 2r")
    if not size:
        options.append("a smaller scale")
    return Claim(f"To come closer to full fine-tuning: {', '.join(options)}.", numbers, f"{PAPER}, sec. 4; {RSLORA}")
