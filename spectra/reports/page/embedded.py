"""The numbers of a page as JSON inside it, so that a page is also data."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from spectra import table
from spectra.errors import InputError
from spectra.text import show

_DIGITS = 7  # a float32 measurement holds no more
_TAG = re.compile(r'<script type="application/json" id="spectra-report">(.*?)</script>', re.DOTALL)
_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&"}


def embed(document: Mapping[str, Any]) -> Markup:
    """Return the element that holds a document as JSON, its numbers to seven significant digits.

    The text is ASCII without `<`, `>` and `&`, so that no name in it can end the element or begin another.
    """
    text = json.dumps(_short(table.plain(document)), allow_nan=False, separators=(",", ":"))
    return Markup('<script type="application/json" id="spectra-report">' + text.translate(_ESCAPES) + "</script>")  # noqa: S704


def read(path: str | Path) -> dict[str, Any]:
    """Return the numbers of a page written by `to_html`, as `to_dict` has them, to seven significant digits.

    Raises InputError where the file cannot be read or holds no report.
    """
    try:
        page = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as fault:
        raise InputError(f"'{show(path)}' cannot be read as a page: {show(fault)}.") from None
    found = _TAG.search(page)
    if found is None:
        raise InputError(f"'{show(path)}' holds no numbers of a report: write it with --html or to_html.")
    document: dict[str, Any] = json.loads(found[1])
    return document


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _short(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_short(item) for item in value]
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value
