"""The matrices of the benchmark: a base with a spectrum like a trained weight's, and an update with intruders in it.

Seeds fix every entry on one machine. Matrices come in float32, orientation rows = outputs.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from spectra import testing
from spectra.updates import LowRank, WeightPair

K, EPSILON = 10, 0.5
LLAMA = ((4096, 4096), (11008, 4096), (4096, 11008))
ROBERTA = ((768, 768), (3072, 768), (768, 3072))
# Strengths of the planted directions over the base's largest value: they lead. The rest of the rank is weak.
_PLANTED, _WEAK = (1.6, 1.4, 1.2), 0.05
_OUTLIERS, _STRONGEST, _WEAKEST = 24, 4.0, 1.3  # of a bulk with outliers, over the edge of its bulk
_DENSE_NOISE = 0.05  # spectral norm of a dense update's noise over the base's largest value


@dataclass(frozen=True, slots=True)
class Spec:
    """What to make.

    spectrum : an exponent (values `i^-exponent`), or "bulk". rank : of the update, None if it is dense. dtype : what
    the base is stored in, and rounded to.
    """

    shape: tuple[int, int]
    spectrum: float | str
    rank: int | None
    dtype: str = "float32"

    @property
    def name(self) -> str:
        m, n = self.shape
        base = "bulk with outliers" if self.spectrum == "bulk" else f"decaying i^-{self.spectrum}"
        update = "dense update" if self.rank is None else f"r = {self.rank}"
        return f"{m} x {n}, {base}, {update}" + (f", {self.dtype}" if self.dtype != "float32" else "")


def listed(shapes: list[tuple[int, int]], dtype: str = "float32", *, few: bool = False) -> list[Spec]:
    """Return the cases of some shapes: every spectrum and a dense update at 4096 x 4096, fewer elsewhere."""
    specs = []
    for shape in shapes:
        if few:
            specs += [Spec(shape, 0.5, 16), Spec(shape, 0.5, None)]
        elif shape == LLAMA[0]:
            specs += [Spec(shape, spectrum, 16) for spectrum in (0.5, 0.3, 0.7, "bulk")] + [Spec(shape, 0.5, None)]
        elif max(shape) >= LLAMA[0][0]:
            specs += [Spec(shape, 0.5, 16)]
        else:
            specs += [Spec(shape, 0.5, 16), Spec(shape, "bulk", 16), Spec(shape, 0.5, 8)]
    return [replace(spec, dtype=dtype) for spec in specs]


@dataclass(frozen=True, slots=True)
class Case:
    """One base, and its update as factors or dense."""

    spec: Spec
    base: torch.Tensor
    B: torch.Tensor | None = None
    A: torch.Tensor | None = None
    dense: torch.Tensor | None = None

    def tuned(self) -> torch.Tensor:
        """Return W, formed anew."""
        if self.dense is not None:
            return self.base + self.dense
        assert self.B is not None
        assert self.A is not None
        return self.base + self.B @ self.A

    def pair(self) -> WeightPair:
        update = self.dense if self.dense is not None else LowRank(self.B, self.A)
        return testing.weight_pair(self.base, update, dtype=self.spec.dtype)

    def save(self, path: Path) -> None:
        parts = {"base": self.base, "B": self.B, "A": self.A, "dense": self.dense}
        save_file({name: part.contiguous() for name, part in parts.items() if part is not None}, path)


def load(spec: Spec, path: Path) -> Case:
    """Read a case into memory of its own, so that no page of a file comes in later."""
    return Case(spec, **{name: part.clone() for name, part in load_file(path).items()})


def make(spec: Spec, seed: int = 0) -> Case:
    m, n = spec.shape
    base = _bulk(m, n, seed) if spec.spectrum == "bulk" else _decaying(m, n, float(spec.spectrum), seed)
    base = testing.rounded(base, getattr(torch, spec.dtype))
    B, A = factors(spec, seed=seed + 1)
    if spec.rank is not None:
        return Case(spec, base, B, A)
    level = _DENSE_NOISE * _largest(spec) / (math.sqrt(m) + math.sqrt(n))
    return Case(spec, base, dense=B @ A + level * _normal(m, n, seed + 2))


def factors(spec: Spec, *, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw an update's factors: some directions strong enough to lead, in random places, the others weak."""
    m, n = spec.shape
    planted = [*_PLANTED] if spec.spectrum == "bulk" else [*_PLANTED, _between(float(spec.spectrum))]
    rank = spec.rank or len(planted)
    strengths = torch.tensor([*planted, *[_WEAK] * (rank - len(planted))], dtype=torch.float64) * _largest(spec)
    X, Y = testing.orthogonal(m, rank, seed=2 * seed), testing.orthogonal(n, rank, seed=2 * seed + 1)
    return (X * strengths).float(), Y.T.float()


def _between(exponent: float) -> float:
    """Halfway between the first two values of a decaying base: an intruder among its leading directions."""
    return float(2 ** (-exponent / 2))


def _largest(spec: Spec) -> float:
    return _STRONGEST if spec.spectrum == "bulk" else 1.0


def _decaying(m: int, n: int, exponent: float, seed: int) -> torch.Tensor:
    return testing.decaying(m, n, seed=seed, exponent=exponent).float()


def _bulk(m: int, n: int, seed: int) -> torch.Tensor:
    """Normal entries with the edge of their Marchenko-Pastur bulk at 1, and outliers that decay towards it."""
    steps = torch.linspace(0, 1, _OUTLIERS, dtype=torch.float64)
    strengths = _STRONGEST * (_WEAKEST / _STRONGEST) ** steps
    U, V = testing.orthogonal(m, _OUTLIERS, seed=seed + 11), testing.orthogonal(n, _OUTLIERS, seed=seed + 12)
    bulk = _normal(m, n, seed + 13) / (math.sqrt(m) + math.sqrt(n))
    return bulk + ((U * strengths) @ V.T).float()


def _normal(m: int, n: int, seed: int) -> torch.Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed))
