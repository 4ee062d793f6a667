"""What rows of results share: as a mapping each reads like its JSON, and one of a matrix knows where that sits."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from spectra.metrics.place import Place, place
from spectra.metrics.status import OK


class Row(Mapping[str, Any]):
    """A row that knows itself as plain data; `row["rank"]["effective"]` is what its JSON holds there.

    Read as a mapping it is built once and shared by all who read it; `to_dict` builds data of one's own.
    """

    @abstractmethod
    def to_dict(self) -> dict[str, Any]: ...

    @cached_property
    def _read(self) -> dict[str, Any]:
        return self.to_dict()

    def __getitem__(self, name: str) -> Any:
        return self._read[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read)

    def __len__(self) -> int:
        return len(self._read)


@dataclass(frozen=True, repr=False)
class MatrixRow(Row):
    """A row about one matrix. status : "ok" where it was measured, else why not, with a reason."""

    key: str
    name: str
    index: int | None
    shape: tuple[int, int]
    status: str
    reason: str

    @property
    def place(self) -> Place:
        return place(self.name)

    @property
    def ok(self) -> bool:
        return self.status == OK

    def head(self) -> dict[str, Any]:
        """Return what the JSON of every row begins with: which matrix it is about, and what became of it."""
        where = self.place
        return {
            "key": self.key,
            "name": self.name,
            "index": self.index,
            "stack": where.stack,
            "block": where.block,
            "module": where.module,
            "shape": list(self.shape),
            "status": self.status,
            "reason": self.reason,
        }
