"""The one result type of the engine: a thin singular value decomposition, descending, with its proof."""

from dataclasses import dataclass

import torch

from spectra.errors import DecompositionError

_PROBES = 8


@dataclass(frozen=True, slots=True)
class SVD:
    """`matrix = U @ diag(S) @ Vh`, singular values descending.

    U : [m, q], S : [q], Vh : [q, n], with `q <= min(m, n)`, all on the CPU.
    residual : `||matrix - U S Vh|| / ||matrix||` and orthogonality : `||U^T U x - x|| / ||x||`, both
    estimated with eight fixed random vectors (0 where the matrix is zero or empty).
    method : the driver and precision that gave it ("gesdd float32"); device : where it ran.
    vector_error : bound on the spectral norm of what keeping the vectors in fewer bits has changed, on either
    side: no vector is farther than that from the one that was computed. 0 where they are as computed.

    Signs are arbitrary, and vectors of tied singular values are an arbitrary basis of their space.
    """

    U: torch.Tensor
    S: torch.Tensor
    Vh: torch.Tensor
    residual: float
    orthogonality: float
    method: str
    device: str = "cpu"
    vector_error: float = 0.0

    def __post_init__(self) -> None:
        q = len(self.S)
        if self.U.shape[1] != q or self.Vh.shape[0] != q:
            raise DecompositionError(
                f"U {list(self.U.shape)}, S [{q}] and Vh {list(self.Vh.shape)} do not belong together"
            )

    @property
    def shape(self) -> tuple[int, int]:
        return self.U.shape[0], self.Vh.shape[1]

    @property
    def fine(self) -> bool:
        """Whether it was made in float64, and its vectors are as they were computed."""
        return "float64" in self.method and self.vector_error == 0

    def vectors(self, side: str) -> torch.Tensor:
        """Return the singular vectors of one side as columns: `[m, q]` left, `[n, q]` right."""
        return self.U if side == "left" else self.Vh.T

    def relative_gaps(self) -> torch.Tensor:
        """Return, for each value, its distance to the nearest other value over itself. See `relative_gaps`."""
        return relative_gaps(self.S)


def relative_gaps(values: torch.Tensor) -> torch.Tensor:
    """Return, for each of q descending values, its distance to the nearest other value over itself. [q]

    0 for an exact tie (and for zeros), infinite for a lone value. A small gap means that the vector is
    ill-defined: only the space it shares with its neighbour is.
    """
    S = values.double()
    return torch.where(S > 0, gaps(S) / S.clamp_min(torch.finfo(values.dtype).tiny), torch.zeros_like(S))


def gaps(values: torch.Tensor) -> torch.Tensor:
    """Return, for each of q descending values, its distance to the nearest other value, infinite for a lone one. [q]"""
    alone = values.new_full((1,), torch.inf)
    steps = torch.cat([alone, values[:-1] - values[1:], alone])
    return torch.minimum(steps[:-1], steps[1:])


def resolution(largest: float, shape: tuple[int, int], *, fine: bool = False) -> float:
    """Return the size below which singular values, and differences of them, are rounding of float32.

    `8 eps sigma_1`, above 1024 rows or columns `sqrt(max(m, n)) / 4` times `eps sigma_1`: 2 to 7 eps were
    measured at 64 to 2000. largest : sigma_1. fine : of float64 instead.
    """
    eps = torch.finfo(torch.float64 if fine else torch.float32).eps
    return float(eps * max(8.0, max(shape) ** 0.5 / 4) * largest)


def check(matrix: torch.Tensor, U: torch.Tensor, S: torch.Tensor, Vh: torch.Tensor) -> tuple[float, float]:
    """Return the residual and the loss of orthogonality of a decomposition, in O(mn) work."""
    if S.numel() == 0:
        return 0.0, 0.0
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(matrix.shape[1], _PROBES, generator=generator, dtype=torch.float64)
    y = torch.randn(len(S), _PROBES, generator=generator, dtype=torch.float64)
    x, y = x.to(matrix), y.to(matrix)
    exact = matrix @ x
    scale = torch.linalg.matrix_norm(exact).item()
    missed = torch.linalg.matrix_norm(exact - U @ (S[:, None] * (Vh @ x))).item()
    size = torch.linalg.matrix_norm(y)
    left = torch.linalg.matrix_norm(U.T @ (U @ y) - y) / size
    right = torch.linalg.matrix_norm(Vh @ (Vh.T @ y) - y) / size
    return (missed / scale if scale > 0 else missed), max(left.item(), right.item())
