"""docs/findings.md is written from the table of findings and says the same."""

import re
from pathlib import Path

import pytest

from spectra.findings.finding import Rule
from spectra.findings.rules import RULES
from spectra.reports.explanation import COMMAND, page, section

PAGE = Path(__file__).parents[1] / "docs" / "findings.md"


def test_the_page_is_that_of_the_table():
    assert PAGE.read_text() == page(), f"docs/findings.md is out of date: {COMMAND}"


def test_every_link_of_the_table_leads_to_its_section():
    text = page()
    anchors = [heading.lower().replace(" ", "-") for heading in re.findall(r"^## (.*)$", text, re.M)]
    assert re.findall(r"^\| \[SP\d+\]\(#([\w-]+)\)", text, re.M) == anchors
    assert len(anchors) == len(RULES)


def test_markup_in_a_text_is_escaped_but_code_is_not():
    rule = Rule(
        "SP999", "x", "A | b.", ("error", "warning", "info"), "<b>", "*a* [b](c) snake_case _x_", "`<code>_`", "s",
        lambda evidence: [],
    )  # fmt: skip
    text = section(rule)
    assert "Severity: error, warning or info." in text
    assert r"**Meaning.** \<b\>" in text
    assert r"**What to do.** \*a\* \[b\](c) snake_case \_x\_" in text
    assert "**When not to trust it.** `<code>_`" in text


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_backticks_come_in_pairs(rule):
    for text in (rule.summary, rule.meaning, rule.advice, rule.doubts, rule.source):
        assert text.count("`") % 2 == 0
