"""Where a weight sits in its model, read off its name: stack, block number and kind of module."""

import re
from dataclasses import dataclass
from typing import Protocol

_BLOCK = re.compile(r"^(?P<stack>(?:[^.]+\.)*?[^.]*?)\.(?P<block>\d+)\.(?P<module>.+)$")


@dataclass(frozen=True, slots=True)
class Place:
    """`model.layers.3.self_attn.q_proj.weight` is stack `model.layers`, block 3, module `self_attn.q_proj`.

    A weight outside the blocks (an embedding, a pooler) has block None and keeps the last two parts
    of its name as module.
    """

    stack: str
    block: int | None
    module: str


class Placed(Protocol):
    """A row of any table of matrices: it knows where its matrix sits."""

    @property
    def place(self) -> Place: ...

    @property
    def index(self) -> int | None: ...


def place(name: str) -> Place:
    """Read a weight's place off its name."""
    module = name.removesuffix(".weight")
    match = _BLOCK.match(module)
    if match is None or len(match["block"]) > 6:
        return Place("", None, ".".join(module.split(".")[-2:]))
    return Place(match["stack"], int(match["block"]), match["module"])
