"""Block Krylov spaces: an orthonormal basis grown by products alone, and what it says of the spectrum.

Everything is batched over `g` matrices of one shape, and vectors are rows: a block is `[g, b, m]`. For a
matrix W the space is that of `M = W W^T` from a start block, with full reorthogonalisation:
`M q_i = sum_j T_ij q_j + leak`, where the leak of the last block is all that points out of the space. No
product with `W^T W` is ever formed, and the matrix is read twice a step.
"""

from dataclasses import dataclass
from typing import Protocol

import torch

from spectra.engine.threads import one_thread, side_by_side

WIDTH = 4  # block widths are multiples of it
_NOISE_SEED = 99
_THREADED = 512  # size of a projected matrix from which LAPACK may use all threads
_WORTHWHILE = 256  # smaller dimension from which oneDNN's kernels gain
_HAS_ONEDNN = torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise")


@dataclass(frozen=True, slots=True)
class Operator:
    """`W = base + B A`, never formed. base : [g, m, n]; B : [g, m, r] and A : [g, r, n], or None.

    A base in bfloat16 (on CUDA alone) is multiplied as it is stored, at the accuracy of float32.
    """

    base: torch.Tensor
    B: torch.Tensor | None = None
    A: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        g, m, n = self.base.shape
        return g, m, n

    @property
    def like(self) -> torch.Tensor:
        """A tensor of the dtype and on the device of the products."""
        return self.base.new_empty(0, dtype=torch.promote_types(self.base.dtype, torch.float32))

    @property
    def transposed(self) -> "Operator":
        """The transposed operator; nothing is copied."""
        if self.B is None or self.A is None:
            return Operator(self.base.mT)
        return Operator(self.base.mT, self.A.mT, self.B.mT)

    def part(self, index: torch.Tensor) -> "Operator":
        """The same for some matrices of the batch."""
        if self.B is None or self.A is None:
            return Operator(self.base[index])
        return Operator(self.base[index], self.B[index], self.A[index])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return `W x` for rows x [g, b, n]: [g, b, m]."""
        y = _product(x, self.base.mT) if len(x) > 1 else _few_rows(x[0], self.base[0])[None]
        if self.B is not None and self.A is not None:
            y += (x @ self.A.mT) @ self.B.mT
        return y


@dataclass(frozen=True, slots=True)
class Diagonal:
    """`W = diag(values) + P Q^T`, rectangular where P and Q differ in length.

    values : [p]; P : [g, m, r]; Q : [g, n, r].
    """

    values: torch.Tensor
    P: torch.Tensor
    Q: torch.Tensor

    @property
    def shape(self) -> tuple[int, int, int]:
        return len(self.P), self.P.shape[1], self.Q.shape[1]

    @property
    def transposed(self) -> "Diagonal":
        return Diagonal(self.values, self.Q, self.P)

    @property
    def like(self) -> torch.Tensor:
        return self.P

    def part(self, index: torch.Tensor) -> "Diagonal":
        """The same for some matrices of the batch."""
        return Diagonal(self.values, self.P[index], self.Q[index])

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return `W x` for rows x [g, b, n]: [g, b, m], in O((m + n) r) a row."""
        y = (x @ self.Q) @ self.P.mT
        y[..., : len(self.values)] += x[..., : len(self.values)] * self.values
        return y


class Linear(Protocol):
    """What a Krylov space needs of a batch of matrices: its shape (g, m, n), its transpose, products with rows."""

    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def transposed(self) -> "Linear": ...
    @property
    def like(self) -> torch.Tensor: ...
    def part(self, index: torch.Tensor) -> "Linear": ...
    def __call__(self, x: torch.Tensor) -> torch.Tensor: ...


def _product(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Multiply rows x [g, b, n] by matrices [g, n, m], by the call that is fastest for the kind of tensor."""
    if len(x) == 1:
        return (x[0] @ matrix[0])[None]
    if matrix.dtype == torch.bfloat16:
        return _by_thirds(x, matrix)
    return (matrix.mT @ x.mT).mT if x.is_cuda else x @ matrix


def _few_rows(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Return `x matrix^T` for a few rows x [b, n] and one matrix [m, n].

    A plain product of so few rows runs at a third of the memory's speed (7 to 10 ms at 4096 x 4096 and 12 rows);
    oneDNN's linear layer, which torch carries, takes 4 to 5, on a transposed view as well.
    """
    if not _HAS_ONEDNN or matrix.is_cuda or matrix.dtype != torch.float32 or min(matrix.shape) < _WORTHWHILE:
        return x.to(matrix) @ matrix.mT if matrix.dtype != torch.bfloat16 else _by_thirds(x[None], matrix.mT[None])[0]
    product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x.contiguous(), matrix, None, "none", [], "")
    return product


def _by_thirds(x: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
    """Multiply float32 rows by bfloat16 matrices to the accuracy of float32, at the bytes of bfloat16.

    Three bfloat16 numbers hold the 24 bits of a float32 one: `x = x_1 + x_2 + x_3`; the tensor cores add up in
    float32.
    """
    parts, left = [], x
    for _ in range(3):
        parts.append(left.bfloat16())
        left = left - parts[-1].float()
    y = torch.bmm(torch.cat(parts, 1), matrix, out_dtype=torch.float32)
    first, second, third = y.chunk(3, 1)
    return first + (second + third)


def _eigh_alone(T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    with one_thread(len(T) < _THREADED):
        values, vectors = torch.linalg.eigh(T)
    return values, vectors


def _eigh(T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Decompose symmetric matrices [g, d, d]: values descending, vectors as columns, on T's device."""
    solved = side_by_side(torch.linalg.eigh, T.cpu()) if len(T) > 1 else [_eigh_alone(T[0].cpu())]
    values, vectors = (torch.stack(part).to(T.device) for part in zip(*solved, strict=True))
    return values.flip(-1), vectors.flip(-1)


@dataclass(frozen=True, slots=True)
class Ritz:
    """What a space knows of M: values [g, d] descending, vectors [g, d, d] (columns, in the basis), leak [g, b, d].

    `||M q - value q||` of the Ritz vector q is the norm of its column of the leak. rounding : [g], the size
    of what products in this precision add to that, as measured by the asymmetry of `Q^T M Q`.
    """

    values: torch.Tensor
    vectors: torch.Tensor
    leak: torch.Tensor
    rounding: torch.Tensor

    def residuals(self) -> torch.Tensor:
        """Return `||M q - value q||` for every Ritz vector, rounding included. [g, d]"""
        size: torch.Tensor = self.leak.norm(dim=1) + self.rounding[:, None]
        return size


class Krylov:
    """A growing orthonormal basis of `span{X, M X, ..., M^s X}`, `M = W W^T`.

    start : rows X [g, b, m]. room : most steps it may grow. images : `W^T q` for every basis vector that has
    been multiplied, [g, d, n].
    """

    def __init__(self, operator: Linear, start: torch.Tensor, room: int) -> None:
        g, b, m = start.shape
        self.operator, self.width, self.steps = operator, b, 0
        n = operator.shape[2]
        self._basis = start.new_empty(g, b * (room + 1), m)
        self._images = start.new_empty(g, b * room, n)
        self._T = torch.zeros(g, b * room, b * room, dtype=torch.float64, device=start.device)
        self._asymmetry = torch.zeros(g, dtype=torch.float64, device=start.device)
        self._largest = start.new_zeros(g)
        self._rows = random_rows(1, b, m, start, _NOISE_SEED)[0] / m**0.5
        # Rows of one length, orthonormalised twice: Cholesky's shift is relative to the longest.
        unit = start / start.norm(dim=2, keepdim=True).clamp_min(torch.finfo(start.dtype).tiny)
        self._basis[:, :b], _ = _orthonormal(_orthonormal(unit)[0])
        self._next = torch.zeros(g, b, b, dtype=torch.float64, device=start.device)

    @property
    def size(self) -> int:
        """Dimension of the space whose images are known."""
        return self.steps * self.width

    @property
    def basis(self) -> torch.Tensor:
        return self._basis[:, : self.size]

    @property
    def first_block(self) -> torch.Tensor:
        """The orthonormal rows of the start block. [g, b, m]"""
        return self._basis[:, : self.width]

    @property
    def images(self) -> torch.Tensor:
        return self._images[:, : self.size]

    def grow(self, steps: int = 1) -> None:
        """Add steps: two products with the matrix each, no value read back."""
        for _ in range(steps):
            self._step()

    def _step(self) -> None:
        b, before = self.width, self.size
        after = before + b
        block = self._basis[:, before:after]
        images = self.operator.transposed(block)
        self._images[:, before:after] = images
        # In exact arithmetic only the last two blocks are met; the second pass, over all, removes what rounding left.
        near = max(0, before - b)
        image = self.operator(images)
        self._largest = torch.maximum(self._largest, image.norm(dim=2).amax(1))
        y, first = _project_out(image, self._basis[:, near:after])
        y, scale = _orthonormal(y + self._noise())
        y, second = _project_out(y, self._basis[:, :after])
        y, rescale = _orthonormal(y)
        coefficients = scale.double() @ second.double()
        coefficients[:, :, near:] += first.double()
        self._asymmetry = torch.maximum(self._asymmetry, self._difference(coefficients, before))
        self._T[:, before:after, :after] = coefficients
        self._T[:, :after, before:after] = coefficients.mT
        self._next = scale.double() @ rescale.double()
        self._basis[:, after : after + b] = y
        self.steps += 1

    def _noise(self) -> torch.Tensor:
        """Random rows of the size of rounding: where a block is used up, the space goes on from them, and not from
        rounding that lies within it already."""
        size = torch.finfo(self._basis.dtype).eps * self._largest
        noise: torch.Tensor = size[:, None, None] * self._rows.roll(self.steps, -1)
        return noise

    def _difference(self, coefficients: torch.Tensor, before: int) -> torch.Tensor:
        """How far the new rows of Q^T M Q are from the columns known already: exact products give zero."""
        if before == 0:
            off = coefficients - coefficients.mT
        else:
            off = coefficients[:, :, :before].clone()
            off[:, :, before - self.width :] -= self._next.mT
        size: torch.Tensor = off.norm(dim=(1, 2))
        return size

    def ritz(self) -> Ritz:
        """Decompose the projected matrices in float64: O(d^3). On CUDA that is done on the host, in threads."""
        T = self._T[:, : self.size, : self.size]
        values, vectors = _eigh((T + T.mT) / 2)
        leak = self._next.mT @ vectors[:, -self.width :]
        floor = 4 * torch.finfo(self._basis.dtype).eps * values[:, 0].abs()
        return Ritz(values, vectors, leak, torch.maximum(2 * self._asymmetry, floor))

    def keep(self, members: list[int]) -> None:
        """Go on with some matrices of the batch alone."""
        index = torch.tensor(members, device=self._basis.device)
        self.operator = self.operator.part(index)
        held = (self._basis, self._images, self._T, self._asymmetry, self._next, self._largest)
        self._basis, self._images, self._T, self._asymmetry, self._next, self._largest = (part[index] for part in held)

    def vectors(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Return the rows with these coefficients [g, j, d] in the basis: [g, j, m]."""
        found: torch.Tensor = coefficients.to(self._basis) @ self.basis
        return found

    def images_of(self, coefficients: torch.Tensor) -> torch.Tensor:
        """Return `W^T` of the rows with these coefficients [g, j, d], without a product with the matrix: [g, j, n]."""
        found: torch.Tensor = coefficients.to(self._images) @ self.images
        return found


def _project_out(y: torch.Tensor, basis: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return y less its part in the span of the basis, and that part's coefficients."""
    coefficients = _product(y, basis.mT)
    return y - _product(coefficients, basis), coefficients


def _orthonormal(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return orthonormal rows that span those of y, and L with `y = L q`."""
    if y.is_cuda:
        return _cholesky_orthonormal(y)
    q, r = torch.linalg.qr(y.mT)
    return q.mT, r.mT


def _cholesky_orthonormal(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by Cholesky of the Gram matrix in float64: one small kernel a batch where QR is one a matrix.

    The Gram matrix is shifted so that it never fails; rows that are nearly dependent then come out short of
    orthonormal, which the second pass of each step mends. Fukaya et al. 2020, arXiv:1809.11085 (shifted CholeskyQR).
    """
    wide = y.double()
    _, b, m = wide.shape
    gram = wide @ wide.mT
    shift = 11 * (m * b + b * (b + 1)) * torch.finfo(torch.float64).eps * gram.diagonal(dim1=1, dim2=2).sum(-1)
    gram.diagonal(dim1=1, dim2=2).add_(shift[:, None] + torch.finfo(torch.float64).tiny)
    L, _ = torch.linalg.cholesky_ex(gram)
    return torch.linalg.solve_triangular(L, wide, upper=False).to(y.dtype), L.to(y.dtype)


def random_rows(g: int, b: int, m: int, like: torch.Tensor, seed: int) -> torch.Tensor:
    """Draw normal rows from a seed: the same on every device. [g, b, m]"""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(b, m, generator=generator, dtype=torch.float64).to(like).expand(g, b, m)
