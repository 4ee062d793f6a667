"""JSON from strangers: bounded, without duplicate keys, without numbers that are not numbers."""

import json
from pathlib import Path
from typing import Any

from spectra.errors import FormatError
from spectra.loaders.files import require_regular
from spectra.text import show

MAX_BYTES = 64 * 2**20


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key '{show(twice)}' stands twice")
    return found


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number JSON allows")


def parse(raw: bytes, where: str) -> dict[str, Any]:
    """Parse one JSON object.

    Raises FormatError, naming `where`, for anything else than one object: bad UTF-8, duplicate keys,
    NaN or infinity, nesting or integers beyond Python's limits.
    """
    try:
        found = json.loads(raw.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as fault:
        reason = "it is nested too deeply" if isinstance(fault, RecursionError) else show(fault)
        raise FormatError(f"{where} is not valid JSON: {reason}. Download or save it again.") from None
    if not isinstance(found, dict):
        raise FormatError(f"{where} holds a JSON {type(found).__name__}, not an object.")
    return found


def read(path: Path, max_bytes: int = MAX_BYTES) -> dict[str, Any]:
    """Read and parse a JSON file of at most `max_bytes`."""
    size = require_regular(path)
    if size > max_bytes:
        raise FormatError(f"{show(path.name)} is {size} bytes, too large for a configuration file.")
    return parse(path.read_bytes(), show(path.name))
