"""SP401: a scale that does not go with the rank."""

import math
import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from spectra.findings.finding import Evidence, Raised, Rule, Severity
from spectra.text import count

if TYPE_CHECKING:
    from spectra.metrics.layer import Layer

_HIGH, _WEAK = 32, 0.5  # ordinary settings have alpha of r or 2r; QLoRA's alpha = 16 at r = 64 makes 0.25
_STRONG = 16.0  # of alpha / r: what people set lies between 1 and 8
_STABILISED, _TWICE = 16, 2.0  # below r = 16, 2 sqrt(r) is less than 8: strong, and no accident
_EXTREME = 32.0  # of rsLoRA's scale: alpha = 2r at r = 256


def _check(evidence: Evidence) -> list[Raised]:
    known = [
        _Scaled(layer, layer.rank.allotted, layer.scaling)
        for layer in evidence.layers
        if layer.rank is not None and layer.rank.allotted and layer.scaling
    ]
    if evidence.info.rank_stabilised:
        return _said(_stabilised, [one for one in known if _is_strong(one)], len(known))
    weak = [one for one in known if one.rank >= _HIGH and abs(one.scaling) < _WEAK]
    strong = [one for one in known if abs(one.scaling) >= _STRONG]
    return _said(_weak, weak, len(known)) + _said(_strong, strong, len(known))


class _Scaled(NamedTuple):
    layer: "Layer"
    rank: int
    scaling: float


def _is_strong(one: _Scaled) -> bool:
    """Whether alpha is 2r or more, to rounding: rsLoRA's scale is then 2 sqrt(r) or more."""
    return one.rank >= _STABILISED and abs(one.scaling) >= _TWICE * math.sqrt(one.rank) * (1 - 1e-6)


def _said(
    say: Callable[[float, float, str], tuple[Severity, str, str]], rows: list[_Scaled], known: int
) -> list[Raised]:
    """Raise what is to be said of rows with a median rank and scale, if there are any."""
    if not rows:
        return []
    rank, scaling = statistics.median(row.rank for row in rows), statistics.median(row.scaling for row in rows)
    where = f"(medians) in {len(rows)} of {count(known, 'matrix', 'matrices')}"
    severity, message, advice = say(rank, scaling, where)
    numbers = {"median_rank": rank, "median_scaling": scaling, "rows": len(rows)}
    return [Raised(severity, message, advice, [row.layer for row in rows], numbers)]


def _weak(rank: float, scaling: float, where: str) -> tuple[Severity, str, str]:
    return (
        "info",
        f"A weak scale for the rank: alpha / r = {scaling:.3g} at r = {rank:g} {where}. At a fixed alpha the update is "
        "scaled down as the rank grows.",
        "For another run: rsLoRA (alpha / sqrt(r)), or alpha = 2r, with which the paper finds fewer intruders at high "
        "rank. The adapter as it is needs no change: its scale belongs to it.",
    )


def _strong(rank: float, scaling: float, where: str) -> tuple[Severity, str, str]:
    return (
        "info",
        f"A strong scale for the rank: alpha / r = {scaling:.3g} at r = {rank:g} {where}. It multiplies every step of "
        "training, as a larger learning rate would.",
        "Check that alpha is the one of the training run: it may have been kept while the rank was lowered. For "
        "another run, alpha = 2r is usual.",
    )


def _stabilised(rank: float, scaling: float, where: str) -> tuple[Severity, str, str]:
    times = f"{scaling / math.sqrt(rank):.3g}"
    return (
        "warning" if abs(scaling) >= _EXTREME else "info",
        f"rsLoRA with alpha = {times} r at r = {rank:g} {where}: the scale is {scaling:.3g}, where alpha / r would be "
        f"{times}.",
        "alpha = 2r is advice for plain LoRA. With rsLoRA keep alpha where it was at a small rank (16 is usual): the "
        "root of r already makes up for the rank.",
    )


ALPHA_AND_RANK = Rule(
    code="SP401",
    name="alpha-and-rank",
    summary="A scale that does not go with the rank.",
    severities=("warning", "info"),
    meaning=f"Plain LoRA with r of {_HIGH} or more and a scale alpha / r below {_WEAK:g}: at a fixed alpha the update, "
    "and its gradient, shrink as the rank grows, so that a high rank trains like a low one. Or "
    f"plain LoRA with a scale of {_STRONG:g} or more. Or rsLoRA, whose scale is "
    f"alpha / sqrt(r), with r of {_STABILISED} or more and alpha of {_TWICE:g} r or more: the rank is then made up for "
    f"twice. A remark; a warning for a scale of rsLoRA of {_EXTREME:g} or more.",
    advice="Choose one way to make up for the rank: alpha = 2r with plain LoRA, or a fixed alpha with rsLoRA. The "
    "intruder paper finds fewer intruders with either than with a fixed alpha.",
    doubts="A trained adapter must keep its scale: this is about the next run. A larger learning rate makes up for a "
    "weak scale, and image trainers use alpha = 1 with just that. The rank is the stored one.",
    source="Kalajdzievski 2023, arXiv:2312.03732 (rsLoRA); Shuttleworth et al. 2024, arXiv:2410.21228v3",
    check=_check,
)
