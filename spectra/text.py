"""Text from outside made safe to show, and numbers made easy to read.

Tensor names, file names and configuration values come from strangers. `show` is the one gate
through which they reach a terminal, a figure or a table cell.
"""

import difflib
import re
from collections.abc import Iterable

_FIELDS = re.compile(r"[^A-Za-z0-9]+")
_MAX_WORD, _MAX_CHOICES, _MAX_PARTS = 200, 100, 1000


def _escape(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def show(text: object, limit: int | None = 120) -> str:
    r"""Return `text` with every character that does not print escaped, cut at `limit`.

    That covers control, bidirectional, invisible and surrogate characters and every space but ` `.

    >>> show("q_proj\x1b[31m")
    'q_proj\\x1b[31m'
    """
    try:
        given = str(text)
    except (RecursionError, ValueError):  # nested beyond Python's limit, or an integer of 4300 digits
        given = f"a {type(text).__name__} too large to show"
    head = given if limit is None else given[: limit + 1]
    safe = head if head.isprintable() else "".join(map(_escape, head))
    return safe if limit is None or len(safe) <= limit else safe[: limit - 1] + "…"


def numbered(name: str, index: int | None) -> str:
    """Return the name of a weight, with its expert's number where it is one of a stack.

    >>> numbered("mlp.experts.down_proj", 3)
    'mlp.experts.down_proj[3]'
    """
    return name if index is None else f"{name}[{index}]"


def nearest(word: str, choices: Iterable[str], cutoff: float = 0.3) -> str | None:
    """Return the choice most like `word`, or the first with a dotted part like it, or None.

    Comparing letter by letter is slow: of many choices only those that share most fields with the word
    (`layers`, `3`, `proj`) are compared, so that the answer takes milliseconds whatever the names.
    """
    word, known = word[:_MAX_WORD], [choice for choice in choices if len(choice) <= _MAX_WORD]
    fields = set(_FIELDS.split(word))
    alike = sorted(known, key=lambda choice: -len(fields.intersection(_FIELDS.split(choice))))
    found = difflib.get_close_matches(word, alike[:_MAX_CHOICES], n=1, cutoff=cutoff)
    if found:
        return found[0]
    parts = {part: choice for choice in reversed(known) for part in choice.split(".")}
    like = difflib.get_close_matches(word, list(parts)[-_MAX_PARTS:], n=1, cutoff=0.6)
    return parts[like[0]] if like else None


def listing(words: Iterable[object], limit: int = 10) -> str:
    """Join words with commas, showing at most `limit` and saying how many more there are."""
    every = list(words)
    more = f" and {len(every) - limit:,} more" if len(every) > limit else ""
    return ", ".join(show(word) for word in every[:limit]) + more


def count(number: int, noun: str, plural: str | None = None) -> str:
    """Return '1 matrix' or '3 matrices'."""
    word = noun if number == 1 else (plural or noun + "s")
    return f"{number:,} {word}"


def size(n_bytes: float) -> str:
    """Return a byte count in the largest unit that keeps it above one: 1536 -> '1.5 KB'."""
    value = float(n_bytes)
    for unit in ("B", "KB", "MB", "GB"):
        if abs(value) < 1024 or unit == "GB":
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    raise AssertionError("unreachable")


def quantity(number: float) -> str:
    """Return a count with a unit letter: 1_600_000 -> '1.6 M'."""
    for factor, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if abs(number) >= factor:
            return f"{number / factor:.3g} {letter}"
    return f"{number:.0f}"


def percent(share: float) -> str:
    """Return a share as a percentage with two significant digits: 0.0123 -> '1.2 %'."""
    value = 100 * share
    if value == 0 or abs(value) >= 10:
        return f"{value:.0f} %"
    return f"{value:.1f} %" if abs(value) >= 1 else f"{value:.2g} %"
