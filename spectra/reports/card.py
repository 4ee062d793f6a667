"""A marked block in a README: found, replaced or appended, and every other byte left as it is.

The block lies between two lines of their own, `<!-- spectra:begin -->` and `<!-- spectra:end -->`, which a reader of
the page does not see.
"""

import re
from difflib import unified_diff

from spectra.errors import InputError
from spectra.reports.markdown import is_summary, same_but_for_the_stamp
from spectra.text import count, show

BEGIN, END = "<!-- spectra:begin -->", "<!-- spectra:end -->"
_BOM = "\ufeff"


def updated(readme: bytes, block: str, name: str) -> bytes:
    """Return a README with the block in its marks, appended where it has none; unchanged where it says the same.

    readme : UTF-8, with any line ends; the block takes those of the file. name : for messages.
    Raises InputError where the file is not UTF-8 or holds half a pair of marks, marks in the wrong order or two pairs.
    """
    text = _decoded(readme, name)
    newline = _newline(text)
    lines = block.strip("\n").split("\n")
    inner = "".join(f"{line}{newline}" for line in lines)
    place = _place(text, name)
    if place is None:
        return (text + _appended(text, inner, newline)).encode()
    start, end = place
    if same_but_for_the_stamp(text[start:end], inner):
        return readme
    return (text[:start] + inner + text[end:]).encode()


def check(readme: bytes, name: str) -> None:
    """Refuse a README that `updated` would refuse, before anything is measured."""
    _place(_decoded(readme, name), name)


def require_summary(block: str, name: str) -> None:
    """Refuse a block that no report wrote, such as another README, or that brings marks of its own.

    The next update could not tell such marks from the README's.
    """
    if not is_summary(block):
        raise InputError(f"'{show(name)}' is no summary that spectra wrote: give it what --markdown wrote, unchanged.")
    if any(_marks(block, mark) for mark in (BEGIN, END)):
        raise InputError(f"'{show(name)}' holds the marks of a card itself: give it what --markdown wrote.")


def difference(before: bytes, after: bytes, name: str) -> str:
    """Return what changes as a unified diff, safe to show; empty where nothing does."""
    old, new = (text.decode().splitlines() for text in (before, after))
    lines = unified_diff(old, new, show(name), show(name), lineterm="")
    return "".join(f"{show(line, None)}\n" for line in lines)


def _decoded(readme: bytes, name: str) -> str:
    try:
        return readme.decode()
    except UnicodeDecodeError as fault:
        raise InputError(
            f"'{show(name)}' is not UTF-8 (byte {fault.start}): save it as UTF-8, as the card is."
        ) from None


def _newline(text: str) -> str:
    """The line end that a file uses: most often, where it mixes them."""
    windows = text.count("\r\n")
    return "\r\n" if windows > text.count("\n") - windows else "\n"


def _marks(text: str, mark: str) -> list[tuple[int, int]]:
    """Where a mark stands alone on a line: start and end of that line, its line end included."""
    found = re.finditer(rf"^[ \t{_BOM}]*{re.escape(mark)}[ \t]*\r?(?:\n|\Z)", text, re.MULTILINE)
    return [match.span() for match in found]


def _place(text: str, name: str) -> tuple[int, int] | None:
    """Where the block lies: from the end of the first mark's line to the start of the last's. None without marks."""
    begins, ends = _marks(text, BEGIN), _marks(text, END)
    if not begins and not ends:
        return None
    if len(begins) != 1 or len(ends) != 1:
        held = f"{count(len(begins), 'line')} '{BEGIN}' and {count(len(ends), 'line')} '{END}'"
        raise InputError(f"'{show(name)}' holds {held}: leave one of each, or none.")
    if ends[0][0] < begins[0][1]:
        raise InputError(f"'{show(name)}' has '{END}' before '{BEGIN}': put them in order, or remove both.")
    return begins[0][1], ends[0][0]


def _appended(text: str, inner: str, newline: str) -> str:
    """What to add at the end: a blank line, the marked block, and a last line end where the file has one."""
    ended = text.endswith("\n") or not text.removeprefix(_BOM)
    space = "" if not text.removeprefix(_BOM) else newline if ended else 2 * newline
    return f"{space}{BEGIN}{newline}{inner}{END}{newline if ended else ''}"
