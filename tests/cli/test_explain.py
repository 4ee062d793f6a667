"""`spectra explain`: every finding is told, by code, by the start of codes or by name."""

import pytest

from spectra.findings.rules import RULES
from spectra.reports.explanation import page


def told(text):
    return " ".join(text.split())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.code)
def test_a_finding_is_told_in_full(run, rule):
    code, out, err = run("explain", rule.code)
    assert (code, err) == (0, "")
    assert out.startswith(f"{rule.code} {rule.name}\n")
    for part in (rule.summary, rule.meaning, rule.advice, rule.doubts, rule.source, f"--ignore {rule.code}"):
        assert told(part) in told(out)
    assert max(map(len, out.splitlines())) <= 100


def test_without_a_code_all_are_listed_in_order(run):
    code, out, _ = run("explain")
    assert code == 0
    heads = [line.split()[:3] for line in out.splitlines() if line.startswith("SP")]
    assert heads == [[rule.code, rule.severities[0], rule.name] for rule in RULES]
    for rule in RULES:
        assert told(rule.summary) in told(out)


def test_names_starts_and_several_words(run):
    one, by_name = run("explain", "SP301")[1], run("explain", "rank-unused")[1]
    assert one == by_name == run("explain", "sp301", "rank-unused")[1]
    family = run("explain", "SP4")[1]
    assert [line.split()[0] for line in family.splitlines() if line.startswith("SP")] == [
        rule.code for rule in RULES if rule.code.startswith("SP4")
    ]


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("rank-unusd", "did you mean 'rank-unused'?"),
        ("SPP201", "did you mean 'SP201'?"),
        ("", "`spectra explain` lists them."),
        ("\x1b]0;owned\x07", "'\\x1b]0;owned\\x07'"),
    ],
)
def test_a_misspelt_word_is_refused_with_the_nearest(run, word, hint):
    code, out, err = run("explain", word)
    assert (code, out) == (2, "")
    assert hint in err
    assert err.rstrip("\n").isprintable()


def test_markdown_is_the_page_or_its_sections(run):
    assert run("explain", "--markdown")[1] == page()
    one = run("explain", "--markdown", "SP103")[1]
    assert one.startswith("## SP103 wrong-base\n")
    assert one in page()
    both = run("explain", "--markdown", "SP103", "SP304")[1]
    assert both.count("## SP") == 2


@pytest.mark.parametrize("columns", ["20", "75", "400"])
def test_it_fits_any_terminal(run, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    for words in ((), ("SP",)):
        lines = run("explain", *words)[1].splitlines()
        assert not any(line.strip().startswith("%") for line in lines)
        width = max(map(len, lines))
        assert width <= max(60, min(100, int(columns)))


def test_codes_may_have_commas_between_as_select_has_them(run):
    assert run("explain", "SP201,SP202") == run("explain", "SP201", "SP202")
