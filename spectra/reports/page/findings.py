"""Findings as the page shows them: each with the lines of the table that it concerns."""

from collections.abc import Sequence
from dataclasses import dataclass

from spectra.findings.finding import Finding
from spectra.reports import words
from spectra.reports.page.sheet import Matrix
from spectra.text import count, numbered, show

_NAMED = 4


@dataclass(frozen=True, slots=True)
class Noted:
    """A finding. lines : of the table, of its matrices; named : (line, short name) of the first of them."""

    finding: Finding
    lines: tuple[int, ...]
    named: tuple[tuple[int, str], ...]
    numbers: tuple[tuple[str, str], ...]


def noted(findings: Sequence[Finding], rows: Sequence[Matrix]) -> list[Noted]:
    """Find the line of each matrix that a finding names."""
    at = {numbered(row.key, row.index): place for place, row in enumerate(rows)}
    found = []
    for finding in findings:
        lines = tuple(at[key] for key in finding.keys if key in at)
        named = tuple((place, words.where(rows[place])) for place in lines[:_NAMED])
        found.append(Noted(finding, lines, named, _numbers(finding)))
    return found


def _numbers(finding: Finding) -> tuple[tuple[str, str], ...]:
    """What triggered it, by the names of the JSON."""
    return tuple((show(name), _number(value)) for name, value in finding.numbers.items() if value is not None)


def _number(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else show(value)


def counted(findings: Sequence[Finding]) -> list[tuple[str, str]]:
    """Return (severity, how many) of each severity that occurs, the worst first."""
    nouns = (("error", "error"), ("warning", "warning"), ("info", "note"))
    every = [finding.severity for finding in findings]
    return [(severity, count(every.count(severity), noun)) for severity, noun in nouns if severity in every]
