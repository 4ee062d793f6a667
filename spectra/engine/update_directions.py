"""The leading singular triplets of an update: of factors all of them, of any other structure a few, and how."""

from dataclasses import dataclass, replace

import torch

from spectra.engine import dense, factored
from spectra.engine.decomposition import SVD, resolution
from spectra.engine.krylov import Operator
from spectra.engine.leading import leading
from spectra.engine.update_spectrum import LEAST, MOST, largest_entry
from spectra.updates import Update

FEW = 16  # directions of an update without factors
_WHOLE_UP_TO = 256  # smaller dimension up to which a full decomposition is faster than a Krylov space
_WHOLE_WHERE_FLAT = 1024  # and that up to which it is made where a Krylov space tells no direction at all
_WHOLE_IF_NEEDED = 4096  # and that, where a caller has nothing to go on without
_FINE_UP_TO = 1024  # and that up to which the space is one of float64
_STEPS = 8
_TOLD = 0.05  # error above which a direction is not told from its neighbours


@dataclass(frozen=True, slots=True)
class Directions:
    """`dW b_i = s_i a_i` for i < q, strongest first.

    left : [m, q], the a_i as columns; values : [q], the s_i; right : [n, q], the b_i; all float64 on the CPU.
    shape : of dW. residual : of a Krylov space the largest `||dW b_i - s_i a_i|| / s_1`, else that of the whole
    decomposition (see `SVD`). how : they were had.

    A value below the resolution of float32 has no direction. Of an update without factors there are at most 16, and
    of a Krylov space none from the first on that its neighbours leave undetermined.
    """

    left: torch.Tensor
    values: torch.Tensor
    right: torch.Tensor
    shape: tuple[int, int]
    residual: float
    how: str

    def __len__(self) -> int:
        return len(self.values)

    def tied(self) -> torch.Tensor:
        """Number the clusters of values that float32 does not tell apart: [q], from 0. Theirs is a space, no vector."""
        if not len(self):
            return torch.zeros(0, dtype=torch.long)
        apart = self.values[:-1] - self.values[1:] > resolution(float(self.values[0]), self.shape)
        return torch.cat([torch.zeros(1, dtype=torch.long), apart.long().cumsum(0)])


def update_directions(
    update: Update, *, known: SVD | None = None, device: str = "cpu", needed: bool = False
) -> Directions:
    """Return the leading singular directions of an update, above zero.

    known : the decomposition of its factors where that is there already; device : for updates without factors.
    needed : whether the caller has nothing to go on without them, so that more is spent on an update of noise.
    Raises DecompositionError (or NonFiniteError) as `dense.svd` does.

    Notes
    -----
    With factors `O((m + n) r^2)`; else a Krylov space of 8 steps of 24 rows, `800 m n` operations (0.08 s at 2048 x
    2048 on one core, 0.25 s at 4096 x 4096), and up to 256 rows or columns the full decomposition. Where that space
    tells not even the first direction from the rest, as of an update of noise, up to 1024 the full decomposition too,
    and up to 4096 where the directions are needed.
    """
    factors = update.factors
    if factors is not None:
        svd = factored.svd(*factors) if known is None else known
        return _of(svd, update.shape, len(svd.S), "directions of the update from its factors")
    matrix = update.dense()
    if min(update.shape) <= _WHOLE_UP_TO or not LEAST < largest_entry(matrix) < MOST:
        return _in_full(matrix, update.shape, device)
    found = _by_krylov(matrix, update.shape, device)
    if len(found) or min(update.shape) > (_WHOLE_IF_NEEDED if needed else _WHOLE_WHERE_FLAT):
        return found
    whole = _in_full(matrix, update.shape, device)
    return replace(whole, how=f"{whole.how}, as block Krylov told none from its neighbours")


def _in_full(matrix: torch.Tensor, shape: tuple[int, int], device: str) -> Directions:
    svd = dense.svd(matrix, device=device)
    return _of(svd, shape, FEW, f"directions of the update by full decomposition ({svd.method})")


def _of(svd: SVD, shape: tuple[int, int], most: int, how: str) -> Directions:
    S = svd.S[:most].double()
    q = int(S.gt(resolution(float(S[0]), shape)).sum()) if len(S) else 0
    return Directions(svd.U[:, :q].double(), S[:q], svd.Vh[:q].T.double(), shape, svd.residual, how)


def _by_krylov(matrix: torch.Tensor, shape: tuple[int, int], device: str) -> Directions:
    dtype = torch.float64 if min(shape) <= _FINE_UP_TO else torch.float32
    try:
        found = leading(Operator(matrix.to(device, dtype)[None]), FEW, most=_STEPS)
    except torch.OutOfMemoryError:
        found, device = leading(Operator(matrix.to(dtype)[None]), FEW, most=_STEPS), "cpu"
    S, error = found.S[0, :FEW].cpu(), found.error[0].cpu()
    there = (error < _TOLD) & S.gt(resolution(float(S[0]), shape))
    q = int(there.long().cumprod(0).sum())
    residual = float(found.residual[0, :q].max()) if q else 0.0
    how = f"{q} directions of the update by block Krylov on {device}, {found.steps} steps, residual {residual:.0e}"
    U, V = (vectors[0, :q].T.double().cpu() for vectors in (found.U, found.V))
    return Directions(U, S[:q], V, shape, residual, how)
