"""The table of dialects. A new one is one file and one row; the first that recognises a file reads it."""

from spectra.loaders.adapters.adapter import Dialect, Found
from spectra.loaders.adapters.peft import PEFT

DIALECTS: tuple[Dialect, ...] = (PEFT,)


def dialect_of(found: Found) -> Dialect | None:
    """Return the dialect that something is written in, None where it is no adapter that is read."""
    return next((dialect for dialect in DIALECTS if dialect.recognises(found)), None)
