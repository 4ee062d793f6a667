"""What a line of the benchmark is: a method, what it needs before the clock starts, and how its answer is read."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and how. folder : for what one line leaves to another; batch, adapters : sizes of the batched lines."""

    device: str
    folder: Path
    batch: int
    adapters: int


@dataclass(frozen=True, slots=True)
class Answer:
    """What a method said. intruder : of each leading vector, None where it leaves that open; () where it says none.

    count : of intruders, where it says only that. similarity : largest |cos| with a base vector, where it is computed.
    passes : how often as many entries as the matrix has are read; counted : what is in that number.
    """

    intruder: tuple[bool | None, ...] = ()
    count: int | None = None
    similarity: tuple[float, ...] = ()
    passes: float | None = None
    counted: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Work:
    """run : what is timed. read : makes an Answer of its result. per : matrices or adapters that one run answers."""

    run: Callable[[], Any]
    read: Callable[[Any], Answer]
    per: int = 1


class UnavailableError(Exception):
    """A line that cannot run here, and why."""


def of_svds(shape: tuple[int, int], times: int, device: str) -> tuple[float | None, str]:
    """Estimate how often LAPACK's gesdd reads as many entries as the matrix has, and say what is counted.

    Bidiagonalising p x q takes two products with what is left of the matrix for each of its p columns:
    `p^2 q - p^3 / 3` entries (Golub and Van Loan, section 5.4.8). From `q >= 11 p / 6` it works on the triangle of
    a QR instead, `q = p`. The blocked rest, QR and back-multiplication of vectors, is not counted.
    """
    if device != "cpu":
        return None, "not counted: cuSOLVER does not say"
    p, q = min(shape), max(shape)
    inner = p if 6 * q >= 11 * p else q
    entries = p * p * inner - p**3 / 3
    return times * entries / (p * q), f"{times} SVDs, their bidiagonalisations alone, estimated"
