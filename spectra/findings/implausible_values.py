"""SP106: weights of a size that no trained weight has, as after reading bytes under the wrong dtype."""

from typing import TYPE_CHECKING

from spectra.findings.finding import Evidence, Raised, Rule, Severity
from spectra.text import count, percent

if TYPE_CHECKING:
    from spectra.metrics.layer import Layer
    from spectra.metrics.norms import Norms

    Known = list[tuple[Layer, Norms]]

# Of the largest |entry| of a matrix. It is 0.1 to 30 in the models looked at.
_HUGE = 1e4
_TINY = 1e-6  # float16 has no step finer than 6e-8: a weight this small could not be trained in it
_APART = 100.0  # a full fine-tune of its base at 0.9 to 1.5
_MOST = 0.5


def _check(evidence: Evidence) -> list[Raised]:
    known = [(layer, layer.norm) for layer in evidence.layers if layer.norm is not None]
    return [*_huge(known), *_tiny(known), *([] if evidence.is_adapter else _apart(known))]


def _huge(known: "Known") -> list[Raised]:
    rows = [layer for layer, norm in known if max(norm.base_largest, norm.tuned_largest) > _HUGE]
    most = max((max(norm.base_largest, norm.tuned_largest) for _, norm in known), default=0.0)
    return _raised(
        "warning", rows, len(known), f"an entry above {_HUGE:g} (the largest is {most:.2g})", {"largest": most}
    )


def _tiny(known: "Known") -> list[Raised]:
    rows = [layer for layer, norm in known if 0 < norm.base_largest < _TINY]
    least = min((norm.base_largest for _, norm in known if norm.base_largest), default=0.0)
    what = f"no entry of the base above {_TINY:g} (the least of the largest entries is {least:.2g})"
    return _raised("warning" if len(rows) > _MOST * len(known) else "info", rows, len(known), what, {"largest": least})


def _apart(known: "Known") -> list[Raised]:
    judged = [(layer, norm.tuned_largest / norm.base_largest) for layer, norm in known if norm.base_largest]
    far = [(layer, ratio) for layer, ratio in judged if not 1 / _APART <= ratio <= _APART]
    if not far:
        return []
    widest = max((ratio for _, ratio in far), key=lambda ratio: max(ratio, 1 / ratio if ratio else float("inf")))
    what = f"a largest entry more than a hundred times off the base's (tuned over base: {widest:.2g})"
    severity: Severity = "warning" if len(far) > _MOST * len(judged) else "info"
    return _raised(severity, [layer for layer, _ in far], len(judged), what, {"ratio": widest})


def _raised(severity: Severity, rows: "list[Layer]", judged: int, what: str, numbers: dict[str, float]) -> list[Raised]:
    if not rows:
        return []
    has = "has" if len(rows) == 1 else "have"
    return [
        Raised(
            severity,
            f"{count(len(rows), 'matrix', 'matrices')} of {judged} {has} {what}.",
            "Check the dtype that the file declares against the one it was written in: bytes of one dtype read as "
            "another give numbers like these. Otherwise the weight has diverged or collapsed.",
            rows,
            {**numbers, "rows": len(rows), "judged": judged},
        )
    ]


IMPLAUSIBLE_VALUES = Rule(
    code="SP106",
    name="implausible-values",
    summary="Weights of a size that no trained weight has, as after reading bytes under the wrong dtype.",
    severities=("warning", "info"),
    meaning=f"The largest |entry| of W0 or W is above {_HUGE:g}, or that of W0 is below {_TINY:g}, or that of a full "
    f"fine-tune is more than {_APART:g} times larger or smaller than that of its base. A header cannot be checked "
    "against the bytes it describes: bfloat16 read as float16, or weights scaled for a format, show by their size "
    f"alone. Very small weights, and two scales apart, are a remark unless more than {percent(_MOST)} of the matrices "
    "are such.",
    advice="Check the dtype in the file's header against the one it was written in, and any scale stored beside the "
    "weights. Where that is right, training diverged (huge) or weight decay emptied a part that nothing uses (tiny).",
    doubts="A single tiny matrix is often one that the model does not use, such as a pooler under weight decay. Bytes "
    "of one dtype read as another can also come out at a plausible size: silence is no proof.",
    source="largest |entry| of W0 and of W; thresholds of this tool",
    check=_check,
)
