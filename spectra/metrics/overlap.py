"""How much two updates of one weight have in common: the directions they share, and whether they point the same way.

Two ranks, two seeds or two checkpoints of one fine-tuning: LoRA, arXiv:2106.09685, section 7.2.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from spectra.engine.resemblance import SIDES, Side
from spectra.engine.update_directions import Directions
from spectra.metrics.blocks import Block, over_rows
from spectra.metrics.row import MatrixRow
from spectra.text import show
from spectra.updates import Factors, Update

MOST = 64  # directions of each update in the map


@dataclass(frozen=True, slots=True)
class Shared:
    """What the leading directions of two updates share on one side, "left" (outputs) or "right" (inputs).

    phi : [i][j], `||U_i^T U'_j||_F^2 / min(i, j)`, U_i the i leading singular vectors of the first update and U'_j
    the j of the second: 0 orthogonal, 1 one within the other. shared : phi(k, k). chance, chance_deviation : mean and
    standard deviation of shared for random directions. angles : the k principal angles of the two leading spaces,
    radians, ascending.
    """

    side: Side
    phi: tuple[tuple[float, ...], ...]
    shared: float
    chance: float
    chance_deviation: float
    angles: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Alignment:
    """Two updates as vectors: their Frobenius norms and the cosine between them."""

    first: float
    second: float
    cosine: float


@dataclass(frozen=True, repr=False)
class Overlap(MatrixRow):
    """What two updates of one matrix have in common. As a mapping it reads like its JSON.

    status : "ok", or why there is nothing: "zero_update", "nonfinite", "failed", "oom". k : leading directions
    compared, at most the lesser rank. rank : directions known of each that are not zero to rounding. gap : of each,
    the distance of the k-th singular value to the next over itself: near 0 its k leading directions are an arbitrary
    choice among more; None where the next is not known.
    """

    k: int = 0
    rank: tuple[int, int] = (0, 0)
    gap: tuple[float | None, float | None] = (None, None)
    alignment: Alignment | None = None
    sides: tuple[Shared, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        m, n = self.shape
        told = ", ".join(f"{side.side} {side.shared:.2f}" for side in self.sides)
        return f"<Overlap {show(self.key)} {m} x {n}: {self.status}{': ' + told if told else ''}>"

    def side(self, name: Side) -> Shared:
        """Return what is shared on one side of a row that was measured."""
        return next(one for one in self.sides if one.side == name)

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data, in the JSON schema's words."""
        sides = {one.side: asdict(one) for one in self.sides}
        for one in sides.values():
            del one["side"]
        return {
            **self.head(),
            "k": self.k,
            "rank": list(self.rank),
            "gap": list(self.gap),
            "alignment": asdict(self.alignment) if self.alignment else None,
            **{name: sides.get(name) for name in SIDES},
            "notes": list(self.notes),
        }

    def __hash__(self) -> int:
        return hash((self.key, self.index))


def phi(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the similarity of every pair of leading spaces of two orthonormal bases [m, a] and [m, b]. [a, b]

    `phi(i, j) = ||U_i^T U'_j||_F^2 / min(i, j)`, in [0, 1] (LoRA, equation 4). Law: swapping the two transposes it,
    and one rotation of both changes nothing.
    """
    squares = (first.double().T @ second.double()).square()
    sums = squares.cumsum(0).cumsum(1)
    count = torch.arange(1, max(squares.shape, default=0) + 1, dtype=torch.float64)
    fewer = torch.minimum(count[: squares.shape[0], None], count[None, : squares.shape[1]])
    return (sums / fewer).clamp(0, 1)


def chance(m: int, i: int, j: int) -> tuple[float, float]:
    """Return mean and standard deviation of phi(i, j) for random spaces of R^m.

    `i j / m` is the mean of `||U_i^T U'_j||_F^2`, the trace of a product of two random projections, and
    `2 i j (m - i) (m - j) / (m^2 (m - 1) (m + 2))` its variance.
    """
    fewer = min(i, j)
    if not fewer:
        return 0.0, 0.0
    variance = 2 * i * j * (m - i) * (m - j) / (m**2 * max(m - 1, 1) * (m + 2))
    return i * j / m / fewer, variance**0.5 / fewer


def principal_angles(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the principal angles between the spaces of two orthonormal bases [m, a] and [m, b], ascending. [min(a, b)]

    Angles above 45 degrees come from the cosines, singular values of `U^T U'`, the others from the sines, those of
    `(I - U U^T) U'`: an angle of 1e-9 is 1e-9, where its cosine is 1 (Bjorck and Golub 1973).
    """
    U, V = first.double(), second.double()
    U, V = (U, V) if U.shape[1] >= V.shape[1] else (V, U)
    inside = U.T @ V
    cosines = torch.linalg.svdvals(inside).clamp_max(1)
    sines = torch.linalg.svdvals(V - U @ inside).clamp_max(1).flip(0)
    return torch.where(cosines.square() < 0.5, cosines.arccos(), sines.arcsin())


def alignment(first: Update, second: Update) -> Alignment:
    """Return norms and cosine of two updates as vectors, both of one shape and not zero.

    Of factors from their Gram matrices, nothing formed; else in one pass over blocks of rows. float64 either way.
    """
    one, other = first.factors, second.factors
    if one is None or other is None:
        products = torch.stack([span.sums for span in over_rows(_Products, first.dense(), second)]).sum(0).tolist()
    else:
        products = [_inner(one, one), _inner(other, other), _inner(one, other)]
    of_first, of_second, across = products
    lengths = max(of_first, 0.0) ** 0.5, max(of_second, 0.0) ** 0.5
    return Alignment(*lengths, max(-1.0, min(1.0, across / (lengths[0] * lengths[1]))))


def _inner(one: Factors, other: Factors) -> float:
    """Return `<B A, D C> = sum (B^T D) o (A C^T)`."""
    (B, A), (D, C) = one, other
    return float(((B.double().T @ D.double()) * (A.double() @ C.double().T)).sum())


@dataclass(slots=True)
class _Products:
    """Of some rows of two updates: inner products `[X . X, Y . Y, X . Y]`."""

    sums: torch.Tensor = field(default_factory=lambda: torch.zeros(3, dtype=torch.float64))

    def add(self, block: Block) -> None:
        one, other = block.base.double().flatten(), block.update.double().flatten()
        self.sums += torch.stack([one @ one, other @ other, one @ other])


def shared(first: Directions, second: Directions, side: Side, k: int) -> Shared:
    """Compare the directions of two updates on one side: a map of up to 64 of each, and the k leading ones of both.

    k : at least 1, at most the directions of either and 64.
    """
    U, V = ((each.left if side == "left" else each.right)[:, :MOST] for each in (first, second))
    grid = phi(U, V)
    expected, deviation = chance(U.shape[0], k, k)
    return Shared(
        side=side,
        phi=tuple(tuple(row) for row in grid.tolist()),
        shared=float(grid[k - 1, k - 1]),
        chance=expected,
        chance_deviation=deviation,
        angles=tuple(principal_angles(U[:, :k], V[:, :k]).tolist()),
    )


def gap_at(values: torch.Tensor, k: int, *, whole: bool) -> float | None:
    """Return the distance of the k-th of descending values to the next over itself, None where that is not known.

    whole : whether these are all that are not zero, so that zero comes next.
    """
    if k == 0 or (len(values) <= k and not whole):
        return None
    return float(1 - values[k] / values[k - 1]) if len(values) > k else 1.0
