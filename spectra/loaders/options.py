"""What a reader may be told about files that do not say it themselves. Torch-free."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypedDict


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

    def to_dict(self) -> dict[str, Any]:
        """Return the options as plain data, the name of `initial` in place of its path."""
        start = self.initial.name if self.initial is not None else None
        return {item.name: getattr(self, item.name) for item in fields(self)} | {
            "initial": start,
            "names": dict(self.names),
        }
