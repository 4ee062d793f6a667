"""SP201: intruder dimensions, and where they sit."""

from collections import Counter

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.metrics.layer import Layer
from spectra.text import count, percent

_EVERYWHERE = 0.5
_MANY = 0.2


def _check(evidence: Evidence) -> list[Raised]:
    rows = [layer for layer in evidence.measured if _real(layer)]
    if not rows:
        return []
    found, examined = sum(map(_real, rows)), sum(layer.examined for layer in evidence.measured)
    new = sum(side.new for layer in rows for side in layer.intruders)
    everywhere = len(rows) > _EVERYWHERE * len(evidence.measured)
    where = "everywhere" if everywhere else _where(rows)
    share = found / examined
    many = share >= _MANY
    spread = f"in {len(rows)} of {count(len(evidence.measured), 'matrix', 'matrices')}: {where}"
    return [
        Raised(
            "warning" if many else "info",
            f"{count(found, 'intruder')} among {examined} leading directions ({percent(share)}; {new} new, "
            f"{found - new} rotated), {spread}.",
            _advice(evidence, many),
            rows,
            {"intruders": found, "examined": examined, "new": new, "share": share},
        )
    ]


def _real(layer: Layer) -> int:
    """Intruders that are not mere ties of the base."""
    return sum(side.rotated + side.new for side in layer.intruders)


def _where(rows: list[Layer]) -> str:
    modules: Counter[str] = Counter()
    for layer in rows:
        modules[layer.place.module] += _real(layer)
    module, held = modules.most_common(1)[0]
    return f"mostly {module} ({held} of {sum(modules.values())})"


def _advice(evidence: Evidence, many: bool) -> str:
    if evidence.info.method == "full fine-tuning":
        return (
            "Unusual for full fine-tuning in the paper: compare with a smaller learning rate or fewer steps, "
            "and check the base."
        )
    advice = (
        "If forgetting matters, measure it on the pre-training task, then try a higher rank, rsLoRA, alpha = 2r "
        "or a smaller scale."
    )
    return advice if many else f"Few: nothing to do unless forgetting shows. {advice}"


INTRUDERS = Rule("SP201", "intruders", "Shuttleworth et al., arXiv:2410.21228, Def. 3.1 and secs. 4-5", _check)
