"""`spectra explain`: what a finding means, and what there is to find."""

import shutil
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from spectra.cli.options import separated

if TYPE_CHECKING:
    from spectra.findings.finding import Rule

_INDENT, _GAP, _MIN, _MAX = 2, 2, 60, 100


@click.command(name="explain", short_help="What a finding means, and what to do.")
@click.argument("codes", nargs=-1, metavar="[CODE[,CODE]]...")
@click.option("--markdown", is_flag=True, help="Write Markdown: of all findings the page docs/findings.md.")
def command(codes: tuple[str, ...], markdown: bool) -> None:
    """Say what findings mean, what to do about them, when not to trust them, and where they come from.

    CODE is a code (SP201), the start of several (SP2) or a name (rank-unused). Without one, all are listed.

    \b
    Example:
      spectra explain SP204
      spectra explain rank-unused SP4
    """
    from spectra.findings.rules import RULES, rules_of
    from spectra.reports.explanation import page, section

    rules = list(dict.fromkeys(rule for code in separated(codes) for rule in rules_of(code)))
    if markdown:
        click.echo("\n".join(map(section, rules)) if rules else page(), nl=False)
    else:
        width = max(_MIN, min(_MAX, shutil.get_terminal_size((_MAX, 24)).columns))
        click.echo("\n\n".join("\n".join(_section(rule, width)) for rule in rules) or "\n".join(_table(RULES, width)))


def _section(rule: "Rule", width: int) -> list[str]:
    """Lay out one finding: a heading, then what is to be said under its label."""
    from spectra.reports.explanation import severities

    parts = {
        "severity": severities(rule),
        "meaning": rule.meaning,
        "what to do": rule.advice,
        "doubts": rule.doubts,
        "source": rule.source,
        "leave out": f"--ignore {rule.code}",
    }
    label = max(map(len, parts))
    lines = [f"{rule.code} {rule.name}", *textwrap.wrap(rule.summary, width), ""]
    for name, text in parts.items():
        lines += _hanging(f"{'':{_INDENT}}{name:<{label + _GAP}}", text, width)
    return lines


def _table(rules: "Sequence[Rule]", width: int) -> list[str]:
    """Lay out all findings: code, worst severity, name, one line."""
    names, severities = max(len(rule.name) for rule in rules), max(len(rule.severities[0]) for rule in rules)
    lines = []
    for rule in rules:
        head = f"{rule.code}{'':{_GAP}}{rule.severities[0]:<{severities + _GAP}}{rule.name:<{names + _GAP}}"
        lines += _hanging(head, rule.summary, width)
    more = "The severity is the worst that each can have. `spectra explain CODE` says more."
    return [*lines, "", *_hanging("", more, width)]


def _hanging(head: str, text: str, width: int) -> list[str]:
    """Wrap a text beside its head; a number and its percent sign stay together."""
    lines = textwrap.wrap(
        text.replace(" %", "\N{NO-BREAK SPACE}%"), width, initial_indent=head, subsequent_indent=" " * len(head),
        break_on_hyphens=False,
    )  # fmt: skip
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines]
