"""What each method costs on a machine: a small model with constants measured on this code.

`benchmarks/cost_model.py` measures them again and prints the table to put here. What every method has to do (the
spectrum of dW, norms, rounding floor) is left out.
"""

from dataclasses import dataclass

MOST_STEPS = 64
LEADING_WIDTH, CERTIFICATE_WIDTH = 16, 12  # of blocks, for k = 10


@dataclass(frozen=True, slots=True)
class Machine:
    """Seconds a unit of work takes; m x n is the shape, p = min(m, n).

    A full SVD takes `svd_core p^3` (bidiagonal form and its vectors), `svd_entry m n p` (the QR of a tall matrix, and
    its vectors) and `svd_edge p^2` (what does not run at full speed: most of it up to about 1000).
    A Krylov space of d = steps x width vectors takes `2 product m n d`, `vector p d^2` (orthogonalisation, and what
    is read off it) and `overhead` a step; a certificate takes `bounds` besides, whatever the shape.
    basis_number : a number of the coordinates, `m + n` a column, over all steps of the basis path; basis_overhead :
    that path for a matrix of no size. leading_steps, certificate_steps : what is usual.
    """

    svd_core: float
    svd_entry: float
    svd_edge: float
    product: float
    vector: float
    overhead: float
    bounds: float
    basis_number: float
    basis_overhead: float
    leading_steps: float
    certificate_steps: float

    @classmethod
    def of(cls, device: str) -> "Machine":
        return MACHINES["cpu" if device == "cpu" else "cuda"]

    def exact(self, shape: tuple[int, int]) -> float:
        """Predict one full SVD."""
        return _total((self.svd_core, self.svd_entry, self.svd_edge), svd_amounts(shape))

    def space(self, shape: tuple[int, int], width: int, steps: float) -> float:
        """Predict a Krylov space and what is read off it."""
        return _total((self.product, self.vector, self.overhead), space_amounts(shape, width, steps))

    def leading(self, shape: tuple[int, int], k: int) -> float:
        """Predict the leading k triplets."""
        return self.space(shape, max(LEADING_WIDTH, k), self.leading_steps)

    def certificate(self, shape: tuple[int, int], k: int) -> float:
        """Predict the certificate of k vectors of one side."""
        return self.bounds + self.space(shape, max(CERTIFICATE_WIDTH, k + 2), self.certificate_steps)

    def basis(self, shape: tuple[int, int], rank: int) -> float:
        """Predict the basis path for a factored update, the base known."""
        return _total((self.product, self.basis_number, self.basis_overhead), basis_amounts(shape, rank))

    def most_steps(self, shape: tuple[int, int], k: int) -> int:
        """Return the steps after which a certificate has cost as much as half of the exact path it would spare."""
        half, width = self.exact(shape) - self.bounds, max(CERTIFICATE_WIDTH, k + 2)
        return max(1, sum(self.space(shape, width, steps) <= half for steps in range(1, MOST_STEPS + 1)))


def _total(rates: tuple[float, ...], amounts: tuple[float, ...]) -> float:
    return sum(rate * amount for rate, amount in zip(rates, amounts, strict=True))


def svd_amounts(shape: tuple[int, int]) -> tuple[float, float, float]:
    """Return the units of work of a full SVD: core, entries, edge."""
    m, n = shape
    p = min(m, n)
    return p**3, m * n * p, p**2


def space_amounts(shape: tuple[int, int], width: int, steps: float) -> tuple[float, float, float]:
    """Return the units of work of a Krylov space: products, orthogonalisation, steps."""
    m, n = shape
    d = steps * width
    return 2 * m * n * d, min(m, n) * d**2, steps


def basis_amounts(shape: tuple[int, int], rank: int) -> tuple[float, float, float]:
    """Return the units of work of the basis path: products with U0 and V0, numbers, paths.

    The basis of the longer side is not complete, and is read once more for what lies outside it.
    """
    m, n = shape
    p, q = min(m, n), max(m, n)
    reads = p * p + (2 * p * q if q > p else p * p)
    return reads * rank, (m + n) * (rank + LEADING_WIDTH), 1


MACHINES = {
    "cpu": Machine(
        svd_core=0, svd_entry=1.8e-10, svd_edge=8.5e-8, product=4.3e-11, vector=9.8e-10, overhead=3.9e-4, bounds=6.5e-3,
        basis_number=9e-8, basis_overhead=2.6e-3, leading_steps=8.4, certificate_steps=13,
    ),
    "cuda": Machine(
        svd_core=0, svd_entry=8e-12, svd_edge=2e-8, product=5e-13, vector=0, overhead=1e-3, bounds=5e-3,
        basis_number=1e-9, basis_overhead=1.4e-2, leading_steps=7, certificate_steps=16,
    ),
}  # fmt: skip


def predicted(
    machine: Machine, shape: tuple[int, int], *, k: int, sides: int, rank: int | None, has_base: bool
) -> dict[str, float]:
    """Predict the seconds of each method that is possible. rank : of a factored update, None for a dense one."""
    exact, leading = machine.exact(shape), machine.leading(shape, k)
    costs = {
        "exact": exact if has_base else 2 * exact,
        "certified": leading + sides * machine.certificate(shape, k),
    }
    if has_base and rank is None:
        costs["basis"] = leading + sides * machine.product * max(shape) * min(shape) * k
    elif has_base:
        costs["basis"] = machine.basis(shape, rank or 0)
    return costs
