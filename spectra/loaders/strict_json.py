"""JSON from strangers: bounded, without duplicate keys, without numbers that are not numbers."""

import json
from pathlib import Path
from typing import Any

from spectra.errors import FormatError
from spectra.loaders.files import open_regular
from spectra.text import show, size

MAX_INDEX = 64 * 2**20
MAX_CONFIG = 8 * 2**20
_MAX_DIGITS = 100


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key '{show(twice, 60)}' stands twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number JSON allows")


def _whole(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError(f"it holds a number of {len(digits)} digits")
    return int(digits)


def parse(raw: bytes, where: str) -> dict[str, Any]:
    """Parse one JSON object.

    Raises FormatError, naming `where`, for anything else than one object: bad UTF-8, duplicate keys,
    NaN or infinity, whole numbers of more than 100 digits, nesting beyond Python's limit.
    """
    try:
        found = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_whole)
    except (ValueError, RecursionError) as fault:
        reason = "it is nested too deeply" if isinstance(fault, RecursionError) else show(fault, 200)
        raise FormatError(f"{where} is not valid JSON: {reason}. Download or save it again.") from None
    if not isinstance(found, dict):
        raise FormatError(f"{where} holds a JSON {type(found).__name__}, not an object. Download or save it again.")
    return found


def read(path: Path, max_bytes: int = MAX_CONFIG) -> dict[str, Any]:
    """Read and parse a JSON file of at most `max_bytes`."""
    with open_regular(path) as file:
        raw = file.read(max_bytes + 1)
    if len(raw) > max_bytes:
        raise FormatError(f"{show(path.name)} is over {size(max_bytes)}: too large for what its name says it is.")
    return parse(raw, show(path.name))
