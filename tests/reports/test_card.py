"""A block in a README: every byte outside it stays, and a second run changes nothing."""

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from spectra.errors import InputError
from spectra.reports import card

BLOCK = "## What fine-tuning changed: `a title`\n\ntext with ‖dW‖\n\n<sub>Measured 2026-01-01 with spectra 1</sub>\n"
READMES = (
    st.lists(
        st.sampled_from(["# Title", "text", "", "---", "license: mit", "```", "é ‖", "<!-- other -->", "| a |", "\t"])
        | st.text(),
        max_size=8,
    )
    .flatmap(lambda lines: st.sampled_from(["\n", "\r\n"]).map(lambda end: end.join(lines)))
    .flatmap(lambda text: st.sampled_from([text, "\ufeff" + text, text + "\n", text + "\r\n"]))
    .filter(lambda text: not any("spectra:" in text for _ in [0]))
)


@given(READMES)
@example("")
@example("\ufeff")
@example("no final newline")
@example("---\nlicense: mit\n---\n")
@example("old\rmac\r")
def test_appending_keeps_every_byte_and_a_second_run_changes_nothing(text):
    before = text.encode()
    after = card.updated(before, BLOCK, "README.md")
    assert after.startswith(before)
    assert after.count(card.BEGIN.encode()) == after.count(card.END.encode()) == 1
    assert after.endswith(b"\n") == (before.endswith(b"\n") or text in ("", "\ufeff"))
    assert card.updated(after, BLOCK, "README.md") == after


@given(READMES, READMES, READMES, st.sampled_from(["\n", "\r\n"]))
def test_replacing_keeps_every_byte_outside(head, old, tail, end):
    head = head + end if head and not head.endswith("\n") else head
    start = f"{head}{card.BEGIN}{end}".encode()
    rest = f"{card.END}{end}{tail}".encode()
    inside = (old if old.endswith("\n") or not old else old + end).encode()
    after = card.updated(start + inside + rest, BLOCK, "README.md")
    assert after.startswith(start)
    assert after.endswith(rest)
    block = after[len(start) : len(after) - len(rest)].decode()
    assert block.replace("\r\n", "\n") == BLOCK
    assert card.updated(after, BLOCK, "README.md") == after


@given(READMES)
def test_the_block_takes_the_line_ends_of_the_file(text):
    assume("\n" in text)
    windows = text.count("\r\n")
    added = card.updated(text.encode(), BLOCK, "README.md").decode()[len(text) :]
    if windows > text.count("\n") - windows:
        assert added.count("\r\n") == added.count("\n") > 0
    else:
        assert "\r\n" not in added


def test_another_version_or_day_alone_changes_nothing():
    readme = card.updated(b"# x\n", BLOCK, "README.md")
    later = BLOCK.replace("2026-01-01 with spectra 1", "2030-02-02 with spectra 2")
    assert card.updated(readme, later, "README.md") == readme
    assert card.updated(readme, later.replace("title", "name"), "README.md") != readme


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{card.BEGIN}\nx\n", "1 line .* and 0 lines"),
        (f"x\n{card.END}\n", "0 lines .* and 1 line "),
        (f"{card.BEGIN}\n{card.END}\n{card.BEGIN}\n{card.END}\n", "2 lines .* and 2 lines"),
        (f"{card.BEGIN}\n{card.BEGIN}\n{card.END}\n", "2 lines .* and 1 line "),
        (f"{card.END}\n{card.BEGIN}\n", "before"),
    ],
)
def test_half_a_pair_or_two_are_refused_in_a_sentence(text, said):
    with pytest.raises(InputError, match=said):
        card.updated(text.encode(), BLOCK, "README.md")
    with pytest.raises(InputError, match=said):
        card.check(text.encode(), "README.md")


def test_marks_named_within_a_line_are_no_marks():
    text = f"Use `{card.BEGIN}` and `{card.END}`.\n"
    assert card.updated(text.encode(), BLOCK, "README.md").startswith(text.encode())


def test_a_file_in_another_encoding_is_refused():
    with pytest.raises(InputError, match="not UTF-8"):
        card.updated("naïve\n".encode("latin-1"), BLOCK, "README.md")


def test_a_block_with_marks_of_its_own_is_refused():
    card.require_summary(BLOCK, "summary.md")
    with pytest.raises(InputError, match="marks of a card"):
        card.require_summary(BLOCK.replace("text", f"\n{card.END}\n"), "summary.md")


def test_a_difference_shows_what_is_added_and_hides_no_character():
    before = b"# a\x1b[31m\n"
    after = card.updated(before, BLOCK, "README.md")
    shown = card.difference(before, after, "README.md")
    assert "+## What fine-tuning changed: `a title`" in shown.splitlines()
    assert "\x1b" not in shown
    assert card.difference(after, after, "README.md") == ""
