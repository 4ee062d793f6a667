"""SP201: intruder dimensions, and where they sit."""

from collections import Counter

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.metrics.layer import Layer
from spectra.text import count, percent, show

_MANY, _FEW = 0.2, 0.05
_MOSTLY = 0.5


def _check(evidence: Evidence) -> list[Raised]:
    rows = [layer for layer in evidence.measured if _real(layer)]
    if not rows:
        return []
    found, examined = sum(map(_real, rows)), sum(layer.examined for layer in evidence.measured)
    new = sum(side.new for layer in rows for side in layer.intruders)
    share = found / examined
    spread = f"in {len(rows)} of {count(len(evidence.measured), 'matrix', 'matrices')}{_where(rows)}"
    return [
        Raised(
            "warning" if share >= _MANY else "info",
            f"{count(found, 'intruder')} among {count(examined, 'leading direction')} ({percent(share)}; {new} new, "
            f"{found - new} rotated), {spread}.",
            _advice(evidence, share),
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
    total = sum(modules.values())
    if len(modules) == 1 or held > _MOSTLY * total:
        return f", mostly in {show(module)} ({held} of {total})" if len(modules) > 1 else f", all in {show(module)}"
    return f", spread over {len(modules)} kinds of module"


def _advice(evidence: Evidence, share: float) -> str:
    if share < _FEW:
        return "Few: nothing to do unless the model forgets what it should not."
    if not evidence.is_adapter:
        return (
            "More than the paper saw in full fine-tuning, which had hardly any. If forgetting matters, compare with a "
            "smaller learning rate or fewer steps."
        )
    return (
        "If forgetting matters, measure it on the pre-training task. The paper finds fewer at a high rank with "
        "alpha = 2r or rsLoRA; a smaller scale or learning rate leaves fewer too."
    )


INTRUDERS = Rule("SP201", "intruders", "Shuttleworth et al., arXiv:2410.21228, Def. 3.1 and secs. 4-5", _check)
