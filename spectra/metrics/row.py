"""What every row of a result shares: as a mapping it reads like its JSON."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any


class Row(Mapping[str, Any]):
    """A row that knows itself as plain data; `row["rank"]["effective"]` is what its JSON holds there."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]: ...

    def __getitem__(self, name: str) -> Any:
        return self.to_dict()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_dict())

    def __len__(self) -> int:
        return len(self.to_dict())
