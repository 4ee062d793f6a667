"""Text from outside made safe to show, and numbers made easy to read.

Tensor names, file names and configuration values come from strangers. `show` is the one gate
through which they reach a terminal, a figure or a table cell.
"""

import difflib
import re
from collections.abc import Iterable

_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def show(text: object, limit: int | None = 120) -> str:
    r"""Return `text` with control, bidirectional and surrogate characters escaped, cut at `limit`.

    >>> show("q_proj\x1b[31m")
    'q_proj\\x1b[31m'
    """
    safe = _UNSAFE.sub(_escape, str(text))
    return safe if limit is None or len(safe) <= limit else safe[: limit - 1] + "…"


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Return the choice most like `word`, or None when nothing is alike."""
    found = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.3)
    return found[0] if found else None


def listing(words: Iterable[object], limit: int = 10) -> str:
    """Join words with commas, showing at most `limit` and saying how many more there are."""
    shown = [show(word) for word in words]
    more = f" and {len(shown) - limit} more" if len(shown) > limit else ""
    return ", ".join(shown[:limit]) + more


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
