"""The exact path: the full decomposition of a dense matrix, by a chain that ends only in an answer.

LAPACK's divide and conquer (gesdd) can fail to converge on finite matrices where the older gesvd
does not. The chain is gesdd, gesvd, gesvd in float64; each answer is checked before it is believed.
Values alone have a chain of their own, which ends in this one.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial

import scipy.linalg
import torch
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from spectra.engine import banded
from spectra.engine.decomposition import SVD, check
from spectra.engine.threads import suited_to
from spectra.errors import DecompositionError, NonFiniteError

_MAX_ELEMENTS = 2**31 - 1
# Roundings that a good decomposition may leave: LAPACK left 141 on a graded 4 x 4, and 10 sqrt(n) holds at any size.
_LEAST, _PER_ROOT = 500.0, 10.0
# torch's default on CUDA, gesvdj, leaves a residual of 1e-3 at 4096 x 4096: enough to move a verdict. On an
# H100 gesvda leaves 9e-7 and is eight times faster; where its check fails, gesvd leaves 1e-5.
_CUDA_DRIVERS = ("gesvda", "gesvd")
_MAX_EXPONENT = 1000
_SAFE_EXPONENT = 100  # of a factor that float32 itself holds
_BANDED_FROM = 768  # smaller dimension from which a reduction to a band is faster than gesdd, on one core and on two
_ELEMENTS = 2**18
_Raw = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def require_finite(matrix: torch.Tensor, what: str = "the matrix") -> None:
    """Raise NonFiniteError with the count and the first place of NaN or infinity. Cost: one sum of a good matrix."""
    if bool(torch.isfinite(matrix.sum())):
        return
    n_bad, place = 0, ""
    for first, block in _blocks(matrix):  # a sum may be infinite although no entry is
        bad = ~torch.isfinite(block)
        if not place and bool(bad.any()):
            row, column = divmod(int(bad.flatten().int().argmax()), matrix.shape[1])
            place = f"[{first + row}, {column}]"
        n_bad += int(bad.sum())
    if n_bad:
        values = "value that is" if n_bad == 1 else "values that are"
        raise NonFiniteError(f"{what} holds {n_bad} {values} NaN or infinite, first at {place}")


def frobenius(matrix: torch.Tensor) -> float:
    """Return the Frobenius norm, summed in float64: torch's own of a float32 matrix is 6e-4 off at 4096 x 4096."""
    return math.sqrt(sum(block.double().square().sum().item() for _, block in _blocks(matrix)))


def _blocks(matrix: torch.Tensor) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the rows of a matrix a few at a time, each block with the number of its first row."""
    step = max(1, _ELEMENTS // max(matrix.shape[1], 1))
    for first in range(0, matrix.shape[0], step):
        yield first, matrix[first : first + step]


def svd(matrix: torch.Tensor, *, device: str = "cpu") -> SVD:
    """Decompose a dense matrix exactly: `W = U S Vh`, thin, descending.

    Parameters
    ----------
    matrix : [m, n], any floating dtype; half precision is upcast to float32, float64 is kept.
    device : where the first attempt runs; the fallbacks run on the CPU.

    Raises
    ------
    NonFiniteError
        The matrix holds NaN or infinity.
    DecompositionError
        No step of the chain gave vectors that rebuild the matrix, or it is over LAPACK's size limit.

    Notes
    -----
    The matrix is scaled by a power of two first, so that no entry near the ends of the range under- or
    overflows. Values that leave the range of float32 on the way back are returned in float64, with
    their vectors. About `20 m n min(m, n)` operations; memory about five times the matrix.
    """
    A = _prepared(matrix)
    m, n = A.shape
    if 0 in (m, n):
        return SVD(A.new_zeros(m, 0), A.new_zeros(0), A.new_zeros(0, n), 0.0, 0.0, "empty")
    A, exponent = _scaled(A)
    failures = []
    for name, attempt in _chain(A.dtype, device):
        try:
            U, S, Vh = attempt(A)
        except (LinAlgError, scipy.linalg.LinAlgError, torch.OutOfMemoryError) as fault:
            failures.append(f"{name}: {str(fault).partition(chr(10))[0][:100]}")
            continue
        with suited_to(A.shape):
            residual, orthogonality = check(A.to(S), U, S, Vh)
        limit = _limit(A.shape, S.dtype)
        if residual <= limit and orthogonality <= limit and _descends(S):
            values = _unscaled(S.cpu(), exponent)
            ran_on = device if name.startswith("cuda") else "cpu"
            return SVD(U.cpu().to(values), values, Vh.cpu().to(values), residual, orthogonality, name, ran_on)
        failures.append(f"{name}: residual {residual:.1e}, orthogonality {orthogonality:.1e}")
    raise DecompositionError(f"no decomposition of {m} x {n} could be trusted ({'; '.join(failures)})")


def singular_values(matrix: torch.Tensor, *, device: str = "cpu") -> torch.Tensor:
    """Return all singular values of a dense matrix, descending. See `values`."""
    return values(matrix, device=device)[0]


def values(matrix: torch.Tensor, *, device: str = "cpu") -> tuple[torch.Tensor, str]:
    """Return all singular values of a dense matrix, descending, and how they were had.

    Raises what `svd` raises. Values are believed when their energy is that of the matrix; else the next step of
    the chain answers, at the end `svd`.

    Notes
    -----
    On CUDA the eigenvalues of the Gram matrix of the smaller side in float64, which resolve 1e-8 of the largest
    value. On the CPU a reduction to a band from 768 on (4096 x 4096 in 3.4 s on one core, gesdd takes 23 s), within a
    few eps of the matrix's precision times the largest value; below that gesdd without vectors, in float64. Memory:
    one copy of the matrix and a little on the CPU, two more below 768.
    """
    A = _prepared(matrix)
    if A.numel() == 0:
        return A.new_zeros(0), "empty"
    dtype, (A, exponent) = A.dtype, _scaled(A)
    whole, limit = frobenius(A), _limit(A.shape, dtype)
    for name, attempt in _values_chain(A, device):
        try:
            found = attempt(A).cpu()
        except (LinAlgError, scipy.linalg.LinAlgError, torch.OutOfMemoryError):
            continue
        energy = torch.linalg.vector_norm(found.double()).item()
        if abs(energy - whole) <= limit * whole and _descends(found):
            return _unscaled(found.to(dtype), exponent), name
    del A
    whole_svd = svd(matrix)
    return whole_svd.S, whole_svd.method


def _values_chain(A: torch.Tensor, device: str) -> Iterator[tuple[str, Callable[[torch.Tensor], torch.Tensor]]]:
    """The attempts at values alone; the last one may overwrite the matrix."""
    if device != "cpu" and A.dtype == torch.float32:
        yield "eigenvalues of the Gram matrix in float64 on cuda", partial(_from_gram, device=device)
    if min(A.shape) >= _BANDED_FROM and A.dtype == torch.float32:
        yield "reduction to a band in float32", banded.singular_values
    else:  # in float32 gesdd left values 28 eps of the largest that were 0, and 1000 where all entries have one size
        yield "gesdd float64", lambda A: _values(A.double())


def _values(A: torch.Tensor) -> torch.Tensor:
    with suited_to(A.shape):
        found: torch.Tensor = torch.linalg.svdvals(A)
    return found


def _from_gram(A: torch.Tensor, device: str) -> torch.Tensor:
    A = A.to(device)
    A = A.double() if A.shape[0] <= A.shape[1] else A.mT.double()
    squares: torch.Tensor = torch.linalg.eigvalsh(A @ A.mT)
    return squares.flip(0).clamp_min(0).sqrt()


def _prepared(matrix: torch.Tensor) -> torch.Tensor:
    """Refuse what LAPACK cannot index, before anything is copied; then upcast, and refuse what is not finite."""
    m, n = matrix.shape
    if m * n > _MAX_ELEMENTS:
        raise DecompositionError(
            f"{m} x {n} has more than 2^31 entries, beyond what LAPACK's 32-bit indices hold: exclude it"
        )
    matrix = matrix.detach()
    A = matrix if matrix.dtype == torch.float64 else matrix.float()
    require_finite(A)
    return A


def _scaled(A: torch.Tensor) -> tuple[torch.Tensor, int]:
    """Divide by the power of two nearest the largest entry: exact, and undone on the values."""
    least, most = torch.aminmax(A)
    largest = max(-least.item(), most.item())
    exponent = max(-_MAX_EXPONENT, min(_MAX_EXPONENT, math.frexp(largest)[1]))
    factor = 2.0**-exponent
    if abs(exponent) < _SAFE_EXPONENT:
        return A * factor, exponent
    return (A.double() * factor).to(A.dtype), exponent


def _unscaled(S: torch.Tensor, exponent: int) -> torch.Tensor:
    """Undo the scaling on the values, in float64 where they leave the range in which S's own dtype is exact."""
    values = S.double() * 2.0**exponent
    largest, range_ = values[0].item(), torch.finfo(S.dtype)
    if largest == float("inf"):
        raise DecompositionError("the largest singular value is beyond the range of float64")
    return values.to(S.dtype) if largest == 0 or range_.tiny / range_.eps <= largest <= range_.max else values


def _limit(shape: torch.Size, dtype: torch.dtype) -> float:
    """The relative residual up to which a decomposition of this shape and precision is believed."""
    return float((_LEAST + _PER_ROOT * max(shape) ** 0.5) * torch.finfo(dtype).eps)


def _descends(S: torch.Tensor) -> bool:
    return bool((S[:-1] >= S[1:]).all()) and S[-1].item() >= 0


def _chain(dtype: torch.dtype, device: str) -> Iterator[tuple[str, Callable[[torch.Tensor], _Raw]]]:
    precision = str(dtype).removeprefix("torch.")
    for driver in _CUDA_DRIVERS if device != "cpu" else ():
        yield f"cuda {driver} {precision}", partial(_on_device, device=device, driver=driver)
    yield f"gesdd {precision}", lambda A: _torch(A)
    yield f"gesvd {precision}", lambda A: _scipy(A)
    if dtype != torch.float64:
        yield "gesvd float64", lambda A: _scipy(A.double())


def _torch(A: torch.Tensor) -> _Raw:
    with suited_to(A.shape):
        U, S, Vh = torch.linalg.svd(A, full_matrices=False)
    return U, S, Vh


def _on_device(A: torch.Tensor, device: str, driver: str) -> _Raw:
    # A QR of the tall side first: cuSOLVER has allocated a full V for thin matrices.
    A = A.to(device)
    m, n = A.shape
    if m < n:
        U, S, Vh = _on_device(A.T, device, driver)
        return Vh.T, S, U.T
    if m < 2 * n:
        U, S, Vh = torch.linalg.svd(A, full_matrices=False, driver=driver)
        return U, S, Vh
    Q, R = torch.linalg.qr(A)
    U, S, Vh = torch.linalg.svd(R, full_matrices=False, driver=driver)
    return Q @ U, S, Vh


def _scipy(A: torch.Tensor) -> _Raw:
    U, S, Vh = scipy.linalg.svd(A.numpy(), full_matrices=False, lapack_driver="gesvd", check_finite=False)
    return torch.from_numpy(U), torch.from_numpy(S), torch.from_numpy(Vh)
