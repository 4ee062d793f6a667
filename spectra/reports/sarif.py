"""Findings as SARIF 2.1.0, the log that code scanners exchange (OASIS Standard, 2020)."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from spectra import __version__
from spectra.findings.finding import Finding, Rule
from spectra.findings.rules import RULES
from spectra.reports.explanation import section
from spectra.reports.located import Located
from spectra.text import show

_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS = {"error": "error", "warning": "warning", "info": "note"}


def sarif(models: Sequence[Located]) -> dict[str, Any]:
    """Return a log of one run: the rules that were looked for, and one result a finding.

    A result lies in the tuned file and, where it concerns matrices, at each of them (`logicalLocations`).
    """
    looked_for = {code for model in models for code in model.diagnosis.provenance["looked_for"]}
    rules = [rule for rule in RULES if rule.code in looked_for]
    places = {rule.code: place for place, rule in enumerate(rules)}
    driver = {"name": "spectra", "version": __version__, "rules": [_rule(rule) for rule in rules]}
    results = [result for model in models for result in _results(model, places)]
    return {"$schema": _SCHEMA, "version": "2.1.0", "runs": [{"tool": {"driver": driver}, "results": results}]}


def _rule(rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.code,
        "name": rule.name,
        "shortDescription": {"text": _text(rule.summary)},
        "fullDescription": {"text": _text(rule.meaning)},
        "help": {"text": _text(f"{rule.meaning} {rule.advice} {rule.doubts}"), "markdown": _text(section(rule))},
        "defaultConfiguration": {"level": _LEVELS[rule.severities[0]]},
    }


def _results(model: Located, places: dict[str, int]) -> list[dict[str, Any]]:
    seen: Counter[str] = Counter()
    results = []
    for finding in model.diagnosis.findings:
        results.append(
            {
                "ruleId": finding.code,
                "ruleIndex": places[finding.code],
                "level": _LEVELS[finding.severity],
                "message": {"text": _text(model.text(finding))},
                "locations": _locations(model.file, finding),
                "partialFingerprints": {"finding/v1": _fingerprint(model, finding, seen[finding.code])},
                "properties": {"model": show(model.name or model.diagnosis.info.label), "numbers": finding.numbers},
            }
        )
        seen[finding.code] += 1
    return results


def _locations(file: str, finding: Finding) -> list[dict[str, Any]]:
    """One location a matrix. Code scanning wants a line, which a file of weights does not have: it is always 1."""
    physical = {"artifactLocation": {"uri": quote(file), "uriBaseId": "%SRCROOT%"}, "region": {"startLine": 1}}
    return [
        {
            "physicalLocation": physical,
            "logicalLocations": [{"name": show(key, None), "fullyQualifiedName": show(key, None), "kind": "matrix"}],
        }
        for key in finding.keys
    ] or [{"physicalLocation": physical}]


def _fingerprint(model: Located, finding: Finding, place: int) -> str:
    """Name a finding over many runs: by its code, model and file, and which of its code it is, never by its numbers."""
    return hashlib.sha256("\0".join((finding.code, model.name or "", model.file, str(place))).encode()).hexdigest()


def _text(text: str) -> str:
    """Write a text so that no name in it is taken for a placeholder or a link (sections 3.11.5 and 3.11.6)."""
    return text.replace("{", "{{").replace("}", "}}").replace("](", "] (")
