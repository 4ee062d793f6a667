"""Markdown that says what was measured, and stays whole whatever a tensor is called."""

import re

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

import spectra
from spectra import testing
from spectra.reports import markdown
from spectra.text import show

HOSTILE = (
    "model.layers.0.a|b`c``d<img src=x onerror=alert(1)>[x](http://evil.example)*b*.weight",
    "model.layers.0.mlp.b\n- list\n> quote\n| x |\n<!-- spectra:end -->\n.weight",
    "model.layers.1.&lt;script&gt;~~gone~~__bold__ _it_ $x$ www.evil.example \\.weight",
)
PARSER = MarkdownIt("commonmark").enable("table").enable("strikethrough")


def tokens(text):
    """Every token of a text, those inside a line too."""
    return [inner for token in PARSER.parse(text) for inner in (token, *(token.children or ()))]


def words(text):
    """The text that a page shows, tag by tag left out."""
    shown = {"text", "code_inline", "text_special"}
    return "".join(token.content for token in tokens(text) if token.type in shown)


def links(text):
    return [token.attrs["href"] for token in tokens(text) if token.type == "link_open"]


def html(text):
    return [token.content for token in tokens(text) if token.type in ("html_inline", "html_block")]


@pytest.fixture(scope="module")
def hostile():
    """A base and an update whose tensors have the worst of names."""
    base = {name: testing.decaying(32, 32, seed=at).float() for at, name in enumerate(HOSTILE)}
    tuned = {name: weight + testing.noise(32, 32, level=0.8, seed=9).float() for name, weight in base.items()}
    return base, tuned


@pytest.fixture(scope="module")
def report(trio):
    return spectra.diagnose(trio / "base", trio / "lora-r2")


@pytest.fixture(scope="module")
def compared(trio):
    return spectra.compare(trio / "base", {name: trio / name for name in ("lora-r2", "lora-r32", "full")})


@given(st.text())
@example("a_b __c__ _d_")
@example("x* **y** \\* `z`")
@example("![a](b) <b> &amp; ~~s~~ | c")
@example("http://evil.example www.evil.example")
def test_escaped_text_is_shown_letter_for_letter(name):
    text = f"x {markdown.escaped(name)} y"
    assert words(text) == f"x {show(name, None)} y"
    assert {token.type for token in tokens(text)} <= {
        "paragraph_open", "inline", "text", "text_special", "paragraph_close",
    }  # fmt: skip
    assert not re.search(r"https?://|\bwww\.", markdown.escaped(name))  # what GitHub makes a link of by itself


def test_code_in_a_sentence_of_ours_is_code_and_a_name_in_it_is_not():
    text = markdown.prose("`spectra sweep` says it of h.*b*`x`_y_, see `--equal-size`.")
    assert [token.content for token in tokens(text) if token.type == "code_inline"] == ["spectra sweep", "--equal-size"]
    assert words(text) == "spectra sweep says it of h.*b*`x`_y_, see --equal-size."
    assert "em_open" not in {token.type for token in tokens(text)}


@given(st.text())
@example("`a *b* <i>c</i>`")
@example("`x` `` `y``")
@example("`-a.b=c d` [x](y)")
def test_a_sentence_is_shown_letter_for_letter_but_for_the_ticks_of_its_code(sentence):
    text = f"x {markdown.prose(sentence)} y"
    assert words(text).replace("`", "") == f"x {show(sentence, None)} y".replace("`", "")
    assert {token.type for token in tokens(text)} <= {
        "paragraph_open", "inline", "text", "text_special", "code_inline", "paragraph_close",
    }  # fmt: skip


@given(st.text(), st.booleans())
@example("``", False)
@example("a|b", True)
@example(" `", False)
@example("\\|", True)
def test_a_name_in_code_is_shown_letter_for_letter(name, cell):
    text = markdown.code(name, cell=cell)
    if cell:
        text = f"| a | b |\n| --- | --- |\n| {text} | z |\n"
        assert [token.type for token in tokens(text)].count("td_open") == 2
    found = [token.content for token in tokens(text) if token.type == "code_inline"]
    shown = show(name)
    assert found == ([shown] if shown.strip() else [])


def test_a_report_says_what_its_numbers_say(report):
    text = report.to_markdown()
    shown = words(text)
    assert f"{report.summary['intruders']} of {report.summary['examined']} leading directions" in shown
    assert "k = 10, epsilon = 0.5" in shown
    assert f"spectra {spectra.__version__}" in shown
    for finding in report.findings:
        assert finding.message in shown
        assert finding.advice.replace("`", "") in shown
    assert "not a measurement of forgetting" in shown
    assert "https://arxiv.org/abs/2410.21228" in links(text)


def test_no_path_of_this_machine_stands_in_it(report, compared, trio):
    for text in (report.to_markdown(), compared.to_markdown()):
        assert str(trio) not in text
        assert str(trio.parent) not in text


def test_a_comparison_has_every_claim_with_its_evidence_and_limits(compared):
    shown = words(compared.to_markdown())
    for claim in compared.claims:
        for line in (claim.text, *claim.evidence, *claim.limits):
            assert line.replace("`", "") in shown
    for standing in compared.standings:
        assert f"{standing.intruders} of {standing.examined}" in shown


@pytest.mark.parametrize("of", ["report", "comparison"])
def test_hostile_names_stay_names(of, hostile):
    base, tuned = hostile
    if of == "report":
        found = spectra.diagnose(base, tuned)
        assert found.summary["measured"] == len(HOSTILE)
    else:
        found = spectra.compare(base, dict.fromkeys((*HOSTILE, "`"), tuned))
    text = found.to_markdown()
    assert set(html(text)) == {"<sub>", "</sub>"}
    assert {link.split("/")[2] for link in links(text)} <= {"arxiv.org", "openreview.net"}
    kinds = [token.type for token in tokens(text)]
    assert not {"em_open", "s_open", "image"} & set(kinds)
    assert "<!-- spectra:end -->" not in text.splitlines()
    rows = kinds.count("tr_open") - 1
    assert kinds.count("td_open") == rows * kinds.count("th_open")


def test_nothing_measured_is_said(hostile):
    base, _ = hostile
    text = spectra.diagnose(base, base).to_markdown()
    assert "Nothing changed" in words(text)
    assert "Intruder dimensions |" not in text


def test_a_failed_matrix_is_counted(hostile):
    base, tuned = hostile
    broken = tuned | {HOSTILE[0]: torch.full((32, 32), torch.nan)}
    assert "2 measured, 1 failed" in words(spectra.diagnose(base, broken).to_markdown())


def test_written_and_returned_are_the_same(report, tmp_path):
    text = report.to_markdown(tmp_path / "card.md")
    assert (tmp_path / "card.md").read_text(encoding="utf-8") == text
    assert text.endswith("\n")


def test_only_versions_and_dates_are_left_out_of_the_comparison_of_two(report):
    text = report.to_markdown()
    later = re.sub(r"Measured \d{4}-\d\d-\d\d with spectra \S+", "Measured 2031-01-02 with spectra 9.9", text)
    assert later != text
    assert markdown.same_but_for_the_stamp(text, later)
    assert not markdown.same_but_for_the_stamp(text, text.replace("leading directions", "leading direction", 1))
