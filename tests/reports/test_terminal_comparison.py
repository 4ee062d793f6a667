"""The comparison on a terminal: every claim with its evidence and its limits, at any width, whatever a model is called."""

import pytest

import spectra
from spectra.reports import terminal


@pytest.fixture(scope="module")
def compared(trio):
    return spectra.compare(trio / "base", {name: trio / name for name in ("lora-r2", "lora-r32", "full")})


@pytest.mark.parametrize("width", [80, 120])
def test_every_claim_is_there_with_what_it_stands_on_and_how_far_it_goes(compared, width):
    text = terminal.text(terminal.comparison(compared), width)
    assert max(map(len, text.splitlines())) <= width
    shown = " ".join(text.split())
    for claim in (*compared.claims, *(standing.advice for standing in compared.standings if standing.advice)):
        for line in (claim.text, *claim.evidence, *claim.limits, *(source.name for source in claim.sources)):
            assert line in shown
    assert shown.count(" evidence ") >= len(compared.claims)
    assert shown.count(" limits ") >= len(compared.claims)


def test_a_name_reaches_the_terminal_escaped_and_is_no_markup(trio):
    names = ("[bold]x[/bold]", "a\x1b[31m")
    found = spectra.compare(trio / "base", dict(zip(names, (trio / "lora-r2", trio / "full"), strict=True)))
    text = terminal.text(terminal.comparison(found))
    assert "\x1b" not in text
    assert "[bold]x[/bold]: more intruders than a\\x1b[31m" in " ".join(text.split())
