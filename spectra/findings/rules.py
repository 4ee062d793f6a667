"""The table of findings, and the one function that applies it."""

from collections.abc import Sequence

from spectra.errors import UsageError
from spectra.findings.above_critical_scale import ABOVE_CRITICAL_SCALE
from spectra.findings.almost_untrained import ALMOST_UNTRAINED
from spectra.findings.alpha_and_rank import ALPHA_AND_RANK
from spectra.findings.dead_factors import DEAD_FACTORS
from spectra.findings.finding import Evidence, Finding, Raised, Rule
from spectra.findings.implausible_values import IMPLAUSIBLE_VALUES
from spectra.findings.intruders import INTRUDERS
from spectra.findings.intruders_concentrated import INTRUDERS_CONCENTRATED
from spectra.findings.intruders_everywhere import INTRUDERS_EVERYWHERE
from spectra.findings.lost_in_merge import LOST_IN_MERGE
from spectra.findings.missing_modules import MISSING_MODULES
from spectra.findings.near_chance import NEAR_CHANCE
from spectra.findings.non_finite import NON_FINITE
from spectra.findings.not_measured import NOT_MEASURED
from spectra.findings.one_direction import ONE_DIRECTION
from spectra.findings.one_layer import ONE_LAYER
from spectra.findings.outgrown_base import OUTGROWN_BASE
from spectra.findings.precision_differs import PRECISION_DIFFERS
from spectra.findings.quantised_base import QUANTISED_BASE
from spectra.findings.rank_exhausted import RANK_EXHAUSTED
from spectra.findings.rank_is_rounding import RANK_IS_ROUNDING
from spectra.findings.rank_unused import RANK_UNUSED
from spectra.findings.read_as_stored import READ_AS_STORED
from spectra.findings.tied_or_duplicated_targets import TIED_OR_DUPLICATED_TARGETS
from spectra.findings.trivial_magnitude import TRIVIAL_MAGNITUDE
from spectra.findings.untrained import UNTRAINED
from spectra.findings.wrong_base import WRONG_BASE
from spectra.text import nearest, numbered, show

RULES: tuple[Rule, ...] = (
    UNTRAINED,
    NON_FINITE,
    WRONG_BASE,
    ALMOST_UNTRAINED,
    DEAD_FACTORS,
    IMPLAUSIBLE_VALUES,
    READ_AS_STORED,
    NOT_MEASURED,
    TIED_OR_DUPLICATED_TARGETS,
    MISSING_MODULES,
    QUANTISED_BASE,
    PRECISION_DIFFERS,
    INTRUDERS,
    NEAR_CHANCE,
    INTRUDERS_CONCENTRATED,
    INTRUDERS_EVERYWHERE,
    ABOVE_CRITICAL_SCALE,
    RANK_UNUSED,
    RANK_EXHAUSTED,
    RANK_IS_ROUNDING,
    LOST_IN_MERGE,
    ONE_DIRECTION,
    ONE_LAYER,
    OUTGROWN_BASE,
    ALPHA_AND_RANK,
    TRIVIAL_MAGNITUDE,
)
_ORDER = {"error": 0, "warning": 1, "info": 2}


def rules_of(word: str) -> tuple[Rule, ...]:
    """Return the rules that a word stands for: a code (SP201), the start of some (SP2), or a name (rank-unused).

    Raises UsageError for a word that stands for none, with the nearest that does.
    """
    given = word.strip()
    found = tuple(rule for rule in RULES if _is_meant(rule, given))
    if found:
        return found
    like = nearest(given, [name for rule in RULES for name in (rule.code, rule.name)], cutoff=0.6)
    hint = f"did you mean '{like}'?" if like else "`spectra explain` lists them."
    raise UsageError(f"no finding has the code or name '{show(word)}'; {hint}")


def _is_meant(rule: Rule, word: str) -> bool:
    return rule.name == word.lower() or (len(word) >= len("SP") and rule.code.startswith(word.upper()))


def chosen(select: Sequence[str] = (), ignore: Sequence[str] = ()) -> tuple[Rule, ...]:
    """Return the rules to look for: those selected, all when none is, less those ignored, in the order of the table.

    select, ignore : codes, starts of codes and names, see `rules_of`. Raises UsageError for a word that stands for no
    finding, and where none is left.
    """
    for given, what in ((select, "select"), (ignore, "ignore")):
        if isinstance(given, str):
            raise UsageError(f"{what} takes a list of codes and names: ['{show(given)}'].")
    wanted = {rule.code for word in select for rule in rules_of(word)} if select else {rule.code for rule in RULES}
    wanted -= {rule.code for word in ignore for rule in rules_of(word)}
    if not wanted:
        raise UsageError("no finding is left to look for: everything selected is ignored too.")
    return tuple(rule for rule in RULES if rule.code in wanted)


def find(evidence: Evidence, *, select: Sequence[str] = (), ignore: Sequence[str] = ()) -> list[Finding]:
    """Apply the rules that were chosen; the most severe findings come first, then in the order of their codes."""
    found = [_named(rule, raised) for rule in chosen(select, ignore) for raised in rule.check(evidence)]
    return sorted(found, key=lambda finding: _ORDER[finding.severity])


def _named(rule: Rule, raised: Raised) -> Finding:
    assert raised.severity in rule.severities, f"{rule.code} is raised as {raised.severity}"
    keys = tuple(numbered(layer.key, layer.index) for layer in raised.layers)
    return Finding(
        rule.code, rule.name, raised.severity, raised.message, raised.advice, rule.source, keys, raised.numbers
    )
