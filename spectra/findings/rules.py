"""The table of findings, and the one function that applies it."""

from spectra.findings.almost_untrained import ALMOST_UNTRAINED
from spectra.findings.chance import CHANCE
from spectra.findings.failed import FAILED
from spectra.findings.finding import Evidence, Finding, Rule
from spectra.findings.intruders import INTRUDERS
from spectra.findings.rank import RANK_EXHAUSTED, RANK_UNUSED
from spectra.findings.rounding import LOST_IN_MERGE, RANK_IS_ROUNDING
from spectra.findings.untrained import UNTRAINED
from spectra.findings.wrong_base import WRONG_BASE
from spectra.text import numbered

RULES: tuple[Rule, ...] = (
    UNTRAINED,
    FAILED,
    WRONG_BASE,
    ALMOST_UNTRAINED,
    INTRUDERS,
    CHANCE,
    RANK_UNUSED,
    RANK_EXHAUSTED,
    RANK_IS_ROUNDING,
    LOST_IN_MERGE,
)
assert len({rule.code for rule in RULES}) == len(RULES)
_ORDER = {"error": 0, "warning": 1, "info": 2}


def find(evidence: Evidence) -> list[Finding]:
    """Apply every rule; the most severe findings come first."""
    found = [
        Finding(
            rule.code,
            rule.name,
            raised.severity,
            raised.message,
            raised.advice,
            rule.source,
            tuple(numbered(layer.key, layer.index) for layer in raised.layers),
            raised.numbers,
        )
        for rule in RULES
        for raised in rule.check(evidence)
    ]
    return sorted(found, key=lambda finding: _ORDER[finding.severity])
