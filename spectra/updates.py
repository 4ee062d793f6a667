"""What a weight update is: few, exact structures, and the pair of a base weight and its update.

Each structure knows its shape, its products and its dense form; where a factored form exists it is
kept, so that the engine never has to form `B @ A` to know its spectrum. Nothing here knows files.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch

from spectra.errors import MatchError
from spectra.layout import Layout
from spectra.text import show

Factors = tuple[torch.Tensor, torch.Tensor]
Axis = Literal["rows", "columns"]


class Update(Protocol):
    """An update dW of shape `[m, n]`. Law: `matmul(x) == dense() @ x`, `rmatmul(y) == dense().T @ y`.

    factors : `(B, A)` with `dW = B A`, or None where no such form is smaller than dW itself.
    values : its singular values, float64 and descending, where structure gives them without dW or factors; else None.
    """

    @property
    def kind(self) -> str: ...
    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def factors(self) -> Factors | None: ...
    def values(self) -> torch.Tensor | None: ...
    def matmul(self, x: torch.Tensor) -> torch.Tensor: ...
    def rmatmul(self, y: torch.Tensor) -> torch.Tensor: ...
    def dense(self) -> torch.Tensor: ...


class _Unfactored:
    """What an update has that neither factors nor its own spectrum is known of."""

    __slots__ = ()

    @property
    def factors(self) -> Factors | None:
        return None

    def values(self) -> torch.Tensor | None:
        return None


@dataclass(frozen=True, slots=True)
class Dense(_Unfactored):
    """An update known entry by entry.

    stored : whether it is the difference of two stored weights, as full fine-tuning leaves it, so that the rounding
    of both is in it; else a method's formula gave it.
    """

    matrix: torch.Tensor
    stored: bool = True

    @property
    def kind(self) -> str:
        return "dense" if self.stored else "formed"

    @property
    def shape(self) -> tuple[int, int]:
        m, n = self.matrix.shape
        return m, n

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        return self.matrix @ x

    def rmatmul(self, y: torch.Tensor) -> torch.Tensor:
        return self.matrix.T @ y

    def dense(self) -> torch.Tensor:
        return self.matrix


@dataclass(frozen=True, slots=True)
class LowRank:
    """`dW = B @ A` with B `[m, r]` and A `[r, n]`; the method's scaling is already in B."""

    B: torch.Tensor
    A: torch.Tensor
    kind = "low rank"

    def __post_init__(self) -> None:
        if self.B.shape[1] != self.A.shape[0]:
            raise MatchError(
                f"factors B {list(self.B.shape)} and A {list(self.A.shape)} disagree on the rank: "
                f"{self.B.shape[1]} against {self.A.shape[0]}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        return self.B.shape[0], self.A.shape[1]

    @property
    def factors(self) -> Factors | None:
        return self.B, self.A

    def values(self) -> torch.Tensor | None:
        return None

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        return self.B @ (self.A @ x)

    def rmatmul(self, y: torch.Tensor) -> torch.Tensor:
        return self.A.T @ (self.B.T @ y)

    def dense(self) -> torch.Tensor:
        return self.B @ self.A


@dataclass(frozen=True, slots=True)
class Sum:
    """Several updates of one weight, added."""

    parts: tuple[Update, ...]
    kind = "sum"

    def __post_init__(self) -> None:
        if len({part.shape for part in self.parts}) != 1:
            raise MatchError(f"updates of shapes {[list(part.shape) for part in self.parts]} cannot be added")

    @property
    def shape(self) -> tuple[int, int]:
        return self.parts[0].shape

    @property
    def factors(self) -> Factors | None:
        pairs = [part.factors for part in self.parts]
        known = [pair for pair in pairs if pair is not None]
        if len(known) < len(pairs) or sum(B.shape[1] for B, _ in known) >= min(self.shape):
            return None
        return torch.cat([B for B, _ in known], 1), torch.cat([A for _, A in known])

    def values(self) -> torch.Tensor | None:
        return None

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        first, *rest = (part.matmul(x) for part in self.parts)
        return sum(rest, start=first)

    def rmatmul(self, y: torch.Tensor) -> torch.Tensor:
        first, *rest = (part.rmatmul(y) for part in self.parts)
        return sum(rest, start=first)

    def dense(self) -> torch.Tensor:
        first, *rest = (part.dense() for part in self.parts)
        return sum(rest, start=first)


@dataclass(frozen=True, slots=True)
class Rescaled(_Unfactored):
    """`W' = diag(gain) (W0 + inner)` or, by columns, `W' = (W0 + inner) diag(gain)`; `dW = W' - W0`.

    The update of DoRA (arXiv:2402.09353): gain is its magnitude over the norm of `W0 + inner`. With no inner
    update that of IA3 (arXiv:2205.05638).
    """

    base: torch.Tensor
    inner: Update
    gain: torch.Tensor
    axis: Axis = "rows"

    @property
    def kind(self) -> str:
        return "rescaled" if self.axis == "rows" else "rescaled columns"

    def __post_init__(self) -> None:
        length = self.base.shape[0 if self.axis == "rows" else 1]
        if self.inner.shape != tuple(self.base.shape) or self.gain.shape != (length,):
            raise MatchError(
                f"base {list(self.base.shape)}, update {list(self.inner.shape)} and "
                f"{len(self.gain)} gains on its {self.axis} do not fit together"
            )

    @property
    def shape(self) -> tuple[int, int]:
        return self.inner.shape

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        if self.axis == "columns":
            scaled = self.gain[:, None] * x
            return self.base @ (scaled - x) + self.inner.matmul(scaled)
        return (self.gain[:, None] - 1) * (self.base @ x) + self.gain[:, None] * self.inner.matmul(x)

    def rmatmul(self, y: torch.Tensor) -> torch.Tensor:
        if self.axis == "rows":
            scaled = self.gain[:, None] * y
            return self.base.T @ (scaled - y) + self.inner.rmatmul(scaled)
        return (self.gain[:, None] - 1) * (self.base.T @ y) + self.gain[:, None] * self.inner.rmatmul(y)

    def dense(self) -> torch.Tensor:
        gain = self.gain[:, None] if self.axis == "rows" else self.gain
        return (gain - 1) * self.base + gain * self.inner.dense()


@dataclass(frozen=True, slots=True)
class Kronecker(_Unfactored):
    """`dW = left (x) right` (LoKr, arXiv:2212.10650). Its singular values are all products of theirs."""

    left: torch.Tensor
    right: torch.Tensor
    kind = "Kronecker"

    @property
    def shape(self) -> tuple[int, int]:
        (a, b), (c, d) = self.left.shape, self.right.shape
        return a * c, b * d

    def values(self) -> torch.Tensor | None:
        """Return all products of the two factors' singular values: O(a^3 + c^3) where an SVD of dW is O(a^3 c^3)."""
        left, right = (torch.linalg.svdvals(factor.double()) for factor in (self.left, self.right))
        every = torch.outer(left, right).flatten().sort(descending=True).values
        return torch.nn.functional.pad(every, (0, min(self.shape) - len(every)))

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        return _kronecker(self.left, self.right, x)

    def rmatmul(self, y: torch.Tensor) -> torch.Tensor:
        return _kronecker(self.left.T, self.right.T, y)

    def dense(self) -> torch.Tensor:
        return torch.kron(self.left.contiguous(), self.right.contiguous())


def _kronecker(left: torch.Tensor, right: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    columns = x.reshape(left.shape[1], right.shape[1], -1)
    return torch.einsum("ab,cd,bdk->ack", left, right, columns).reshape(-1, x.shape[1])


@dataclass(frozen=True, slots=True)
class Elementwise(_Unfactored):
    """`dW = weight o inner`, entry by entry.

    weight : W0 itself (HiRA), a mask of zeros and ones (LoRS, arXiv:2501.08582), or the other half of LoHa
    (arXiv:2108.06098), as a matrix or as an update. The product of ranks r and s has rank at most r s; where that is
    below the dimensions, factors are the row-wise Kronecker products.
    """

    weight: torch.Tensor | LowRank
    inner: Update
    kind = "elementwise"

    def __post_init__(self) -> None:
        if tuple(self.weight.shape) != self.inner.shape:
            raise MatchError(f"{list(self.weight.shape)} and {list(self.inner.shape)} have no elementwise product")

    @property
    def shape(self) -> tuple[int, int]:
        return self.inner.shape

    @property
    def factors(self) -> Factors | None:
        inner = self.inner.factors
        if inner is None or not isinstance(self.weight, LowRank):
            return None
        (B, A), (D, C) = inner, (self.weight.B, self.weight.A)
        if B.shape[1] * D.shape[1] >= min(self.shape):
            return None
        return (B[:, :, None] * D[:, None]).flatten(1), (A[:, None] * C[None]).flatten(0, 1)

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        return self.dense() @ x

    def rmatmul(self, y: torch.Tensor) -> torch.Tensor:
        return self.dense().T @ y

    def dense(self) -> torch.Tensor:
        weight = self.weight.dense() if isinstance(self.weight, LowRank) else self.weight
        return weight * self.inner.dense()


@dataclass(frozen=True, slots=True)
class Blocks:
    """A block-diagonal map R of vectors, between two reorderings: `R x = P^T blockdiag(blocks) P x`.

    blocks : [count, b, b], in float64 where they are close to the identity: what they change is then exact in the
    float32 of x. order : the permutation P as indices, `(P x)[i] = x[order[i]]`; None is none.
    """

    blocks: torch.Tensor
    order: torch.Tensor | None = None

    @property
    def size(self) -> int:
        return self.blocks.shape[0] * self.blocks.shape[1]

    def less(self, x: torch.Tensor) -> torch.Tensor:
        """Return `(R - I) x` for columns x [size, k], without the cancellation of `R x - x`."""
        blocks = (self.blocks - torch.eye(self.blocks.shape[-1]).to(self.blocks)).to(x.dtype)
        inside = x if self.order is None else x[self.order]
        done = (blocks @ inside.reshape(len(blocks), -1, x.shape[1])).reshape(x.shape)
        if self.order is None:
            return done
        out = torch.empty_like(done)
        out[self.order] = done
        return out

    @property
    def transposed(self) -> "Blocks":
        return Blocks(self.blocks.mT, self.order)


@dataclass(frozen=True, slots=True)
class Multiplied(_Unfactored):
    """`dW = (R - I) W0`, or `W0 (R - I)` on the columns, R a product of block-diagonal maps kept as it is.

    The update of OFT (arXiv:2306.07280), BOFT (arXiv:2311.06243) and their kin. stages : R is the first of them
    times the second and so on.
    """

    base: torch.Tensor
    stages: tuple[Blocks, ...]
    axis: Axis = "rows"
    kind = "multiplied"

    def __post_init__(self) -> None:
        length = self.base.shape[0 if self.axis == "rows" else 1]
        if any(stage.size != length for stage in self.stages):
            sizes = [stage.size for stage in self.stages]
            raise MatchError(f"base {list(self.base.shape)} and maps of {sizes} {self.axis} do not fit together")

    @property
    def shape(self) -> tuple[int, int]:
        m, n = self.base.shape
        return m, n

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        return self._less(self.base @ x) if self.axis == "rows" else self.base @ self._less(x)

    def rmatmul(self, y: torch.Tensor) -> torch.Tensor:
        return self.base.T @ self._less_t(y) if self.axis == "rows" else self._less_t(self.base.T @ y)

    def dense(self) -> torch.Tensor:
        return self._less(self.base) if self.axis == "rows" else self._less_t(self.base.T).T

    def _less(self, x: torch.Tensor) -> torch.Tensor:
        """Return `(R - I) x`."""
        return _moved(self.stages[::-1], x)

    def _less_t(self, x: torch.Tensor) -> torch.Tensor:
        """Return `(R - I)^T x`."""
        return _moved([stage.transposed for stage in self.stages], x)


def _moved(stages: Sequence[Blocks], x: torch.Tensor) -> torch.Tensor:
    """Return by how much stages, applied one after another, move x: the sum of their own moves."""
    moved = torch.zeros_like(x)
    for stage in stages:
        moved = moved + stage.less(x + moved)
    return moved


@dataclass(frozen=True, slots=True)
class Sparse(_Unfactored):
    """An update of few entries (SHiRA, arXiv:2406.13175). rows, columns, values : [entries]; equal places add up."""

    rows: torch.Tensor
    columns: torch.Tensor
    entries: torch.Tensor
    shape: tuple[int, int]
    kind = "sparse"

    def __post_init__(self) -> None:
        m, n = self.shape
        for places, extent in ((self.rows, m), (self.columns, n)):
            if len(places) and not (int(places.min()) >= 0 and int(places.max()) < extent):
                raise MatchError(f"entries that lie outside of {list(self.shape)}")

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        out = x.new_zeros(self.shape[0], x.shape[1])
        return out.index_add(0, self.rows, self.entries[:, None] * x[self.columns])

    def rmatmul(self, y: torch.Tensor) -> torch.Tensor:
        out = y.new_zeros(self.shape[1], y.shape[1])
        return out.index_add(0, self.columns, self.entries[:, None] * y[self.rows])

    def dense(self) -> torch.Tensor:
        return self.entries.new_zeros(self.shape).index_put((self.rows, self.columns), self.entries, accumulate=True)


@dataclass(frozen=True, slots=True)
class Stacked(_Unfactored):
    """Updates of the row blocks of one weight, from the first row down: the parts of a fused projection.

    A part without an update is a low-rank one of rank 0.
    """

    parts: tuple[Update, ...]
    kind = "stacked"

    def __post_init__(self) -> None:
        if len({part.shape[1] for part in self.parts}) != 1:
            raise MatchError(f"blocks of shapes {[list(part.shape) for part in self.parts]} do not stack")

    @property
    def shape(self) -> tuple[int, int]:
        return sum(part.shape[0] for part in self.parts), self.parts[0].shape[1]

    @property
    def factors(self) -> Factors | None:
        pairs = [part.factors for part in self.parts]
        known = [pair for pair in pairs if pair is not None]
        if len(known) < len(pairs) or sum(B.shape[1] for B, _ in known) >= min(self.shape):
            return None
        whole: torch.Tensor = torch.block_diag(*(B for B, _ in known))  # type: ignore[no-untyped-call]
        return whole, torch.cat([A for _, A in known])

    def matmul(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([part.matmul(x) for part in self.parts])

    def rmatmul(self, y: torch.Tensor) -> torch.Tensor:
        blocks = torch.split(y, [part.shape[0] for part in self.parts])
        first, *rest = (part.rmatmul(block) for part, block in zip(self.parts, blocks, strict=True))
        return sum(rest, start=first)

    def dense(self) -> torch.Tensor:
        return torch.cat([part.dense() for part in self.parts])


def nothing(shape: tuple[int, int], like: torch.Tensor) -> LowRank:
    """Return the update that changes nothing: rank 0."""
    m, n = shape
    return LowRank(like.new_zeros(m, 0), like.new_zeros(0, n))


@dataclass(frozen=True, slots=True)
class Storage:
    """What a weight or an update takes on disk: its dtype, number of parameters and bytes."""

    dtype: str
    parameters: int
    bytes: int


@dataclass(frozen=True, slots=True)
class WeightPair:
    """One base weight and its update, both `[m, n]` in float32 with rows = outputs.

    key : the base weight's name on disk; index : expert number or None; name : the Hub's name where
    it differs from the key. allotted : the rank the method may use, None where it is not bounded. scaling : what
    LoRA multiplies the product of this module's factors by, `alpha / r` or `alpha / sqrt(r)`; None for other methods,
    and where several modules share the weight.
    notes : what a reader must know (rows cut, orientation decided, a tied weight).
    """

    key: str
    base: torch.Tensor
    update: Update
    layout: Layout
    base_storage: Storage
    update_storage: Storage
    index: int | None = None
    name: str = ""
    allotted: int | None = None
    scaling: float | None = None
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if tuple(self.base.shape) != self.update.shape:
            raise MatchError(
                f"'{show(self.key)}': base {list(self.base.shape)} and update {list(self.update.shape)} differ"
            )
        if not self.name:
            object.__setattr__(self, "name", self.key)

    @property
    def shape(self) -> tuple[int, int]:
        return self.update.shape

    def tuned(self) -> torch.Tensor:
        """Return `W = W0 + dW` in float32, the merged weight with the method's true scaling."""
        return self.base + self.update.dense()

    def to_stored(self, matrix: torch.Tensor) -> torch.Tensor:
        """Return a matrix of this pair's shape in the state dict's own shape and layout."""
        return self.layout.to_stored(matrix)
