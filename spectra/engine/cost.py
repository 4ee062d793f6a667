"""What each method costs on a machine: a small model with constants measured on this code.

`benchmarks/cost_model.py` measures them again and prints the table to put here.
"""

from dataclasses import dataclass

MOST_STEPS = 64


@dataclass(frozen=True, slots=True)
class Machine:
    """Seconds a unit of work takes.

    svd : an operation of a full SVD (`m n min(m, n)` of them). product : an entry of a matrix times one column
    of a block. overhead : a Krylov step without its products.
    """

    svd: float
    product: float
    overhead: float

    @classmethod
    def of(cls, device: str) -> "Machine":
        return MACHINES["cpu" if device == "cpu" else "cuda"]

    def exact(self, shape: tuple[int, int]) -> float:
        m, n = shape
        return self.svd * m * n * min(m, n)

    def step(self, shape: tuple[int, int], width: int) -> float:
        m, n = shape
        return 2 * self.product * m * n * width + self.overhead

    def most_steps(self, shape: tuple[int, int], k: int) -> int:
        """Return the steps after which a certificate has cost as much as half of the exact path it would spare."""
        return max(1, min(MOST_STEPS, int(self.exact(shape) / self.step(shape, k + 2))))


MACHINES = {
    "cpu": Machine(svd=1.6e-10, product=3.5e-11, overhead=2e-3),
    "cuda": Machine(svd=8e-12, product=5e-13, overhead=1e-3),
}
_LEADING_STEPS, _LEADING_WIDTH = 7, 24
_USUAL_STEPS, _USUAL_WIDTH = 20, 12


def predicted(
    machine: Machine, shape: tuple[int, int], *, k: int, sides: int, rank: int | None, has_base: bool
) -> dict[str, float]:
    """Predict the seconds of each method that is possible. rank : of a factored update, None for a dense one."""
    m, n = shape
    exact = machine.exact(shape)
    krylov = _LEADING_STEPS * machine.step(shape, max(_LEADING_WIDTH, k))
    certificate = sides * _USUAL_STEPS * machine.step(shape, max(_USUAL_WIDTH, k + 2))
    costs = {"exact": exact if has_base else 2 * exact, "certified": krylov + certificate}
    if has_base:
        inside = 2 * machine.product * m * n * (rank or 0) + _LEADING_STEPS * machine.overhead * 2
        costs["basis"] = krylov + 2 * machine.product * m * n * k if rank is None else inside
    return costs
