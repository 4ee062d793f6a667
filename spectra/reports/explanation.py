"""What a finding is, as Markdown: the page docs/findings.md, and the help of a SARIF log."""

import re

from spectra.findings.finding import Rule
from spectra.findings.rules import RULES

COMMAND = "spectra explain --markdown > docs/findings.md"
_MARKUP = re.compile(r"[<>*\[\]]|(?<![a-zA-Z0-9])_|_(?![a-zA-Z0-9])")


def page() -> str:
    """Return the page of all findings: a table, then one section each."""
    rows = "".join(
        f"| [{rule.code}](#{rule.code.lower()}-{rule.name}) | {rule.name} | {severities(rule)} "
        f"| {_in_table(rule.summary)} |\n"
        for rule in RULES
    )
    return (
        "# Findings\n\n"
        "What `spectra diagnose` and `spectra compare` say of the numbers, as a linter does. Codes and names are "
        "stable. An error says that the result or the model is broken, a warning that something is probably wrong or "
        "will bite, a remark (info) what is worth knowing.\n\n"
        "`--select` and `--ignore` take codes, starts of codes (`SP2`) and names; `--fail-on warning` makes the exit "
        "code 1; `--sarif FILE` and `--github` tell a pipeline. `spectra explain SP201` prints a section of this "
        "page.\n\n"
        "| code | name | severity | what it says |\n|---|---|---|---|\n"
        f"{rows}\n" + "\n".join(section(rule) for rule in RULES) + f"\nThis page is written by `{COMMAND}`.\n"
    )


def section(rule: Rule) -> str:
    """Return one finding as a section: meaning, what to do, when not to trust it, source, how to leave it out."""
    return (
        f"## {rule.code} {rule.name}\n\n"
        f"{_escaped(rule.summary)} Severity: {severities(rule)}.\n\n"
        f"**Meaning.** {_escaped(rule.meaning)}\n\n"
        f"**What to do.** {_escaped(rule.advice)}\n\n"
        f"**When not to trust it.** {_escaped(rule.doubts)}\n\n"
        f"**Source.** {_escaped(rule.source)}.\n\n"
        f'**To leave it out.** `--ignore {rule.code}`, or `spectra.diagnose(base, tuned, ignore=["{rule.code}"])`.\n'
    )


def severities(rule: Rule) -> str:
    """Return the severities that a finding can have in words: 'error, warning or info'."""
    *others, last = rule.severities
    return f"{', '.join(others)} or {last}" if others else last


def _in_table(text: str) -> str:
    return _escaped(text).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Escape what Markdown would take for markup, but code between backticks."""
    parts = text.split("`")
    parts[::2] = [_MARKUP.sub(lambda found: f"\\{found[0]}", part) for part in parts[::2]]
    return "`".join(parts)
