"""Do certified and basis answers agree with a float64 full SVD? Random cases, hostile spectra included.

    python benchmarks/agreement.py --cases 3000

Prints every contradiction (there must be none) and the share of cases that were left to the exact path.
`tests/engine/test_agreement.py` runs the same cases.
"""

import argparse
import math
import sys
from collections import Counter
from dataclasses import dataclass

import torch

from spectra import testing
from spectra.engine import choose, dense
from spectra.engine.choose import Decompositions, Request, decompose
from spectra.engine.resemblance import SIDES
from spectra.updates import LowRank, WeightPair

SPECTRA = ("decaying", "flat", "clustered", "deficient", "tied", "huge range", "bulk")
TIE = 1e-5


@dataclass(frozen=True)
class Case:
    """One pair, what is asked of it, and the precision the engine computes in."""

    seed: int
    spectrum: str
    pair: WeightPair
    request: Request
    fine: bool

    def __str__(self) -> str:
        m, n = self.pair.shape
        return (
            f"case {self.seed}: {self.spectrum} {m} x {n}, {self.pair.update.kind}, {self.request.method}, epsilon "
            f"{self.request.epsilon:.3f}, {self.request.sides[0]}, {'float64' if self.fine else 'float32'}"
        )


class Dice:
    """Numbers drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def real(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand(1, generator=self.generator, dtype=torch.float64))

    def whole(self, low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=self.generator))

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator, dtype=torch.float64)


def case(seed: int) -> Case:
    """Draw a case: shapes 1 to 600, mostly above 60, seven kinds of spectra, both kinds of update, both sides."""
    dice = Dice(seed)
    smallest = 0.0 if dice.whole(0, 3) == 0 else 0.65
    m, n = (round(600 ** dice.real(smallest, 1.0)) for _ in range(2))
    n = m if dice.whole(0, 2) == 0 else n
    spectrum = SPECTRA[dice.whole(0, len(SPECTRA) - 1)]
    base = _base(dice, spectrum, m, n, seed).float()
    top = float(torch.linalg.matrix_norm(base.double(), 2)) or 1.0
    update: torch.Tensor | LowRank
    if dice.whole(0, 1):
        rank = dice.whole(1, min(16, m, n))
        B, A = dice.normal(m, rank), dice.normal(rank, n)
        B = B * 10 ** dice.real(-1, 0) ** torch.arange(rank, dtype=torch.float64)
        update = LowRank(B * (10 ** dice.real(-2, 0.5) * top / float(torch.linalg.matrix_norm(B @ A, 2))), A)
    else:
        noise = dice.normal(m, n)
        update = noise * (10 ** dice.real(-2, 0.3) * top / float(torch.linalg.matrix_norm(noise, 2)))
    method = ("certified", "certified", "basis")[dice.whole(0, 2)]
    request = Request(epsilon=dice.real(0.3, 0.8), sides=(SIDES[dice.whole(0, 1)],), method=method)
    return Case(seed, spectrum, testing.weight_pair(base, update), request, bool(dice.whole(0, 1)))


def _base(dice: Dice, spectrum: str, m: int, n: int, seed: int) -> torch.Tensor:
    p = min(m, n)
    index = torch.arange(1, p + 1, dtype=torch.float64)
    if spectrum == "bulk":
        outliers = LowRank(dice.normal(m, min(p, 4)), dice.normal(min(p, 4), n)).dense()
        return dice.normal(m, n) + outliers * dice.real(0, 0.3)
    values = index ** -dice.real(0.2, 1.5)
    if spectrum == "flat":
        values = 1 - dice.real(0, 0.5) * index / p
    elif spectrum == "deficient":
        values[dice.whole(1, p) :] = 0
    elif spectrum == "huge range":
        values = 10 ** (-dice.real(3, 12) * index / p)
    elif spectrum in ("clustered", "tied"):
        size = dice.whole(2, max(2, p // 3)) if spectrum == "clustered" else dice.whole(2, 4)
        first = dice.whole(0, max(0, min(p - size, 12 if spectrum == "tied" else p)))
        jitter = 1e-7 * dice.normal(len(values[first : first + size])) if spectrum == "clustered" else 0.0
        values[first : first + size] = values[first] * (1 + jitter)
    return testing.with_spectrum(values, m, n, seed=seed)


def answer(case: Case) -> Decompositions:
    """Let the engine answer, in the precision of the case."""
    kept = choose._FINE_UP_TO
    choose._FINE_UP_TO = 10**9 if case.fine else 0
    try:
        base = dense.svd(case.pair.base) if case.request.method == "basis" else None
        return decompose(case.pair, case.request, base=base)
    finally:
        choose._FINE_UP_TO = kept


def contradictions(case: Case, found: Decompositions) -> list[str]:
    """Compare intervals and verdicts with the float64 full SVD; what the exact path answered is not at stake."""
    if found.method == "exact":
        return []
    resemblance = found.resemblances[0]
    overlaps, base_values = _truth(case, len(resemblance.found))
    similarity = overlaps.amax(0)
    rounding = 1e-6 if not case.fine or case.request.method == "basis" else 1e-9
    wrong = []
    for j, (least, most, true) in enumerate(
        zip(resemblance.found.tolist(), resemblance.bound.tolist(), similarity.tolist(), strict=True)
    ):
        explained = _tied(overlaps[:, j], base_values)
        if not least - rounding <= true <= most + rounding and not (true < least <= explained + rounding):
            wrong.append(f"vector {j}: {true:.6f} is outside [{least:.6f}, {most:.6f}]")
        if least < case.request.epsilon <= most and explained < case.request.epsilon - rounding:
            wrong.append(f"vector {j}: undecided in [{least:.6f}, {most:.6f}] without a tie that explains it")
    return [f"{case}: {line}" for line in wrong]


def _truth(case: Case, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return |cos| of every base vector with the top k tuned ones, and the base's values, all in float64."""
    base = case.pair.base.double()
    factors = case.pair.update.factors
    update = case.pair.update.dense().double() if factors is None else factors[0].double() @ factors[1].double()
    U0, S0, V0h = torch.linalg.svd(base, full_matrices=False)
    U, _, Vh = torch.linalg.svd(base + update, full_matrices=False)
    left = case.request.sides[0] == "left"
    return ((U0.T if left else V0h) @ (U[:, :k] if left else Vh[:k].T)).abs(), S0


def _tied(overlap: torch.Tensor, values: torch.Tensor) -> float:
    """The largest projection on a cluster of base values that float32 cannot tell apart."""
    width = torch.maximum(TIE * values[:-1], 8 * torch.finfo(torch.float32).eps * values[:1])
    label = torch.cat([torch.zeros(1, dtype=torch.long), (values[:-1] - values[1:] > width).long().cumsum(0)])
    energy = torch.zeros(int(label[-1]) + 1, dtype=torch.float64).index_add(0, label, overlap.square())
    return math.sqrt(float(energy.max()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    asked: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    wrong = 0
    for seed in range(options.first, options.first + options.cases):
        drawn = case(seed)
        found = answer(drawn)
        large = choose.suits(drawn.pair.shape, drawn.request)
        asked[drawn.spectrum if large else "small"] += 1
        answered[drawn.spectrum if large else "small"] += found.method != "exact"
        for line in contradictions(drawn, found):
            wrong += 1
            print(line)
    print(f"{'spectrum':<12}{'cases':>7}{'answered without a full SVD of W':>36}")
    for name in (*SPECTRA, "small"):
        print(f"{name:<12}{asked[name]:>7}{answered[name]:>36}")
    left = 1 - sum(answered.values()) / max(1, sum(asked.values()))
    print(f"{sum(asked.values())} cases, {wrong} contradictions, {left:.1%} left to the exact path")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
