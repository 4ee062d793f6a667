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
    every = (*compared.claims, *(standing.advice for standing in compared.standings if standing.advice))
    for claim in every:
        assert all(line in shown for line in (claim.text, *claim.evidence))
    assert shown.count(" evidence ") >= len(compared.claims)
    for line in {line for claim in every for line in (*claim.limits, *(source.name for source in claim.sources))}:
        assert shown.count(line) == 1  # once, however many models it is true of


def test_a_name_reaches_the_terminal_escaped_and_is_no_markup(trio):
    names = ("[bold]x[/bold]", "a\x1b[31m")
    found = spectra.compare(trio / "base", dict(zip(names, (trio / "lora-r2", trio / "full"), strict=True)))
    text = terminal.text(terminal.comparison(found))
    assert "\x1b" not in text
    assert "[bold]x[/bold]: more intruders than a\\x1b[31m" in " ".join(text.split())


def test_the_rule_stands_below_the_table_and_no_line_ends_in_spaces(compared, capsys):
    terminal.show(terminal.comparison(compared))
    out = capsys.readouterr().out
    assert compared.ranking.rule in " ".join(out.split())
    assert "2=  lora-r2" in out
    assert out.index("lora-r32 ") < out.index("A model is placed before another")
    assert not any(line != line.rstrip() for line in out.splitlines())


def test_models_whose_names_begin_alike_are_told_apart(trio):
    names = ("a-very-long-name-of-a-run-seed-1", "a-very-long-name-of-a-run-seed-2")
    found = spectra.compare(trio / "base", dict.fromkeys(names, trio / "lora-r2"))
    table = terminal.text(terminal.comparison(found), 80).split("None of them")[0]
    assert "".join(line.split()[0] for line in table.splitlines() if "seed" in line or "a-ve" in line)
    assert "…" not in table
