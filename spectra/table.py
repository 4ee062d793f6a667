"""Rows of plain data written whole or not at all: JSON and CSV, to a file or as text."""

import csv
import errno
import io
import json
import math
import os
import re
import stat
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spectra.errors import MachineError
from spectra.text import show

if TYPE_CHECKING:
    import pandas

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?(e[+-]?\d+)?")


def plain(value: Any) -> Any:
    """Return data as JSON can hold it: tuples as lists, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def to_json(document: Mapping[str, Any]) -> str:
    """Return a document as JSON text, ASCII only, so that no name can hide in it."""
    return json.dumps(plain(document), indent=1, allow_nan=False) + "\n"


def flatten(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested row flat: `rank.effective`. Lists become text with spaces between."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        elif isinstance(value, list | tuple):
            flat[prefix + key] = " ".join(f"{item:.6g}" if isinstance(item, float) else str(item) for item in value)
        else:
            flat[prefix + key] = value
    return flat


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return rows as CSV with a header line.

    Text is made safe to show, and text that a spreadsheet would run as a formula gets a leading `'`.
    """
    flat = [flatten(row) for row in rows]
    columns = list(dict.fromkeys(name for row in flat for name in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    for row in flat:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return out.getvalue()


def to_pandas(rows: Sequence[Mapping[str, Any]]) -> "pandas.DataFrame":
    """Return rows as a DataFrame with flat columns. Raises MachineError where pandas is not installed."""
    try:
        import pandas
    except ImportError:
        raise MachineError("to_pandas needs pandas, which is not installed: pip install pandas") from None
    return pandas.DataFrame([flatten(row) for row in rows])


def given(text: str, path: str | Path | None) -> str:
    """Return a text, and write it when a path is given."""
    if path is not None:
        write(path, text)
    return text


class Tabular(ABC):
    """A result that is a document and a table at once."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]: ...

    @abstractmethod
    def flat_rows(self) -> list[dict[str, Any]]: ...

    def to_json(self, path: str | Path | None = None) -> str:
        """Return the whole as JSON, and write it when a path is given."""
        return given(to_json(self.to_dict()), path)

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return the rows as CSV, one line a matrix, and write them when a path is given."""
        return given(to_csv(self.flat_rows()), path)

    def to_pandas(self) -> "pandas.DataFrame":
        """Return the rows as a DataFrame with flat columns (`rank.effective`). Needs pandas."""
        return to_pandas(self.flat_rows())


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    safe = show(value, limit=None)
    return "'" + safe if value.startswith(_FORMULA) and not _is_number(safe) else safe


def _is_number(text: str) -> bool:
    return all(map(_NUMBER.fullmatch, text.split(" ")))


def write(path: str | Path, text: str | bytes) -> Path:
    """Write a file whole: to a neighbour first, then in its place, so that a failure leaves the old one.

    Raises MachineError when the folder is missing, read-only or full.
    """
    target = Path(path)
    raw = text.encode() if isinstance(text, str) else text
    try:
        target = Path(os.path.realpath(target)) if target.is_symlink() else target
        if target.is_symlink():
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        if target.exists() and not target.is_file():
            target.write_bytes(raw)  # a device or pipe: nothing to replace
            return target
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:40]}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(raw)
                file.flush()
                os.fsync(file.fileno())
            Path(name).chmod(_mode(target))
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as fault:
        raise MachineError(f"'{show(target)}' cannot be written: {fault.strerror or fault}.") from None
    return target


def _mode(target: Path) -> int:
    """The permissions of the file replaced, else those that a new one has."""
    return stat.S_IMODE(target.stat().st_mode) if target.exists() else 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
