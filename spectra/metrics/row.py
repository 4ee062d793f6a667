"""What every row of a result shares: as a mapping it reads like its JSON."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any


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
