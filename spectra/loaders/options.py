"""What a reader may be told about files that do not say it themselves. Torch-free."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypedDict

from spectra.errors import UsageError
from spectra.text import show

# How each is given on the command line; in Python it is the keyword of its name.
_GIVEN = {
    "include": "--include PATTERN",
    "exclude": "--exclude PATTERN",
    "allow_unmatched": "--allow-unmatched",
    "as_stored": "--as-stored",
    "initial": "--initial PATH",
    "alpha": "--alpha NUMBER",
    "names": "--names FILE",
    "truncate": "--truncate R",
    "follow_symlinks": "--follow-symlinks",
}
_FLAGS = ("allow_unmatched", "as_stored", "follow_symlinks")


def given_as(option: str) -> str:
    """Return how an option is given on the command line and in Python, for messages.

    >>> given_as("alpha")
    '`--alpha NUMBER` (alpha=)'
    """
    return f"`{_GIVEN[option]}` ({option}={'True' if option in _FLAGS else ''})"


class Reading(TypedDict, total=False):
    """The keywords of `open_pairs`, for those who hand them on."""

    include: Sequence[str]
    exclude: Sequence[str]
    allow_unmatched: bool
    as_stored: bool
    initial: str | Path | None
    alpha: float | None
    names: Mapping[str, str] | None
    truncate: int | None
    follow_symlinks: bool


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How to read a tuned model.

    allow_unmatched : list tensors that match nothing as skipped instead of refusing. as_stored : read an adapter
    whose initialisation changed the base as plain factors, and say so on every output. initial : the adapter as it
    was before training, whose factors are subtracted. alpha : the alpha of files that have none. names : from a
    module name in the file to one in the base, where they are not the same. truncate : read a DyLoRA adapter at this
    one of the ranks it was trained for. follow_symlinks : follow links that leave the folder they lie in.
    """

    allow_unmatched: bool = False
    as_stored: bool = False
    initial: Path | None = None
    alpha: float | None = None
    names: Mapping[str, str] = field(default_factory=dict)
    truncate: int | None = None
    follow_symlinks: bool = False

    def __post_init__(self) -> None:
        """Raise UsageError for a value that no file could make sense of."""
        if self.alpha is not None and not _is_number(self.alpha):
            raise UsageError(f"alpha is {show(repr(self.alpha), 40)}: it must be a finite number.")
        if self.truncate is not None and (not isinstance(self.truncate, int) or self.truncate < 1):
            raise UsageError(f"truncate is {show(repr(self.truncate), 40)}: it must be a whole number above zero.")
        if self.as_stored and self.initial is not None:
            raise UsageError(
                f"{given_as('as_stored')} and {given_as('initial')} are two ways to read a start: give one."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain data, the name of `initial` in place of its path."""
        start = self.initial.name if self.initial is not None else None
        return {item.name: getattr(self, item.name) for item in fields(self)} | {
            "initial": start,
            "names": dict(self.names),
        }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
