r"""PEFT's patterns of module names: regular expressions from a stranger, matched in bounded time.

Python's matcher can take exponential time (`(a+)+`, `a?a?a?aaa`, `(a|aa)(a|aa)`), and nothing stops it
once it runs. So the number of ways a pattern can try is bounded beforehand: each repetition can stop at
any letter of the name, each choice multiplies.
"""

import math
import re
import warnings
from functools import lru_cache

from spectra.errors import FormatError, UnsupportedError
from spectra.text import show

_REPEATED_TWICE = re.compile(r"\)[*+{]|[*+}][*+{]")
_ESCAPED = re.compile(r"\\.", re.DOTALL)
_PLAIN = re.compile(r"[A-Za-z0-9_.]+")
_MAX_PATTERN, _MAX_NAME, _MAX_WAYS = 1000, 512, 10**6


def matches(pattern: str, module: str, where: str) -> bool:
    r"""Return whether `(.*\.)?(pattern)$` matches the module's name.

    Raises UnsupportedError, naming `where`, for a pattern that can take long; FormatError for one that
    is no regular expression.
    """
    if _PLAIN.fullmatch(pattern) and not module.endswith(pattern.rpartition(".")[2]):
        return False  # the common case, many times over: another module's name
    expression, repetitions, choices = _compiled(pattern, where)
    if len(module) > _MAX_NAME or len(module) ** repetitions * choices > _MAX_WAYS:
        raise UnsupportedError(
            f"{where}: the pattern '{show(pattern)}' can take for ever to match. Write the module names out."
        )
    return expression.match(module) is not None


def matches_whole(pattern: str, module: str, where: str) -> bool:
    """Return whether a pattern matches the whole of a module's name. Raises as `matches` does."""
    matches(pattern, module, where)
    return re.fullmatch(pattern, module) is not None


@lru_cache(maxsize=2**14)
def _compiled(pattern: str, where: str) -> tuple[re.Pattern[str], int, int]:
    """Return a pattern ready to match, how many repetitions it has, and how many ways its choices give."""
    if len(pattern) > _MAX_PATTERN or _REPEATED_TWICE.search(pattern):
        raise UnsupportedError(
            f"{where}: the pattern '{show(pattern)}' can take for ever to match. Write the module names out."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of signs that a later Python may read otherwise
            expression = re.compile(rf"(.*\.)?({pattern})$")
    except (re.error, RecursionError, OverflowError):
        raise FormatError(f"{where}: '{show(pattern)}' is not a regular expression. Save the adapter again.") from None
    bare = _ESCAPED.sub("", pattern)
    choices, groups = 2 ** bare.count("?"), [1]
    for sign in re.findall(r"[(|)]", bare):
        if sign == "(":
            groups.append(1)
        elif sign == "|":
            groups[-1] += 1
        elif len(groups) > 1:
            choices *= groups.pop()
    return expression, len(re.findall(r"[*+{]", bare)), choices * math.prod(groups)
