"""Small diagnoses made from state dicts: what a plot takes, without a file or a large decomposition."""

from dataclasses import replace

import pytest
import torch

from spectra.analysis.comparison import ModelComparison, compare
from spectra.analysis.diagnosis import Diagnosis, diagnose
from spectra.analysis.overlap import ModelOverlap, overlap
from spectra.analysis.settings import Settings
from spectra.analysis.sweep import ModelSweep
from spectra.analysis.sweep import sweep as sweep_model

SIZE, BLOCKS = 24, 3
INNER = ("self_attn.q_proj", "mlp.up_proj")
HOSTILE = {
    "dollar": r"layer.0.$\bad{$.weight",
    "escape": "layer.0.\x1b[31mred.weight",
    "script": "layer.1.<script>alert('x')</script>-->&amp;.weight",
    "surrogate": "layer.1.\udc80\ud800.weight",
    "unprintable": "layer.2.\ufffe\u202e中文.weight",
    "long": "layer.2." + "x" * 400 + ".weight",
    "underscore": "_hidden.weight",
}


def weights(seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    names = [f"model.layers.{block}.{module}.weight" for block in range(BLOCKS) for module in INNER]
    return {name: torch.randn(SIZE, SIZE, generator=draw) for name in [*names, "lm_head.weight"]}


def moved(base: dict[str, torch.Tensor], rank: int, seed: int = 1) -> dict[str, torch.Tensor]:
    """Add an update of one rank, strong enough to take over leading directions."""
    draw = torch.Generator().manual_seed(seed)
    tuned = {}
    for name, weight in base.items():
        B, A = (torch.randn(*shape, generator=draw) for shape in ((weight.shape[0], rank), (rank, weight.shape[1])))
        tuned[name] = weight + B @ A
    return tuned


def renamed(report: Diagnosis, names: list[str]) -> Diagnosis:
    """Return a report whose rows carry these names, its measured rows repeated as needed."""
    rows = [row for row in report.rows if row.ok]
    return replace(
        report, rows=tuple(replace(rows[at % len(rows)], key=name, name=name) for at, name in enumerate(names))
    )


def as_adapter(report: Diagnosis, rank: int) -> Diagnosis:
    """Return a report as if each update had been given a rank."""
    return replace(report, rows=tuple(replace(row, rank=replace(row.rank, allotted=rank)) for row in report.rows))


@pytest.fixture(scope="session")
def report() -> Diagnosis:
    base = weights()
    return diagnose(base, moved(base, rank=3))


@pytest.fixture(scope="session")
def both_sides() -> Diagnosis:
    base = weights()
    return diagnose(base, moved(base, rank=3), settings=Settings(side="both", k=4))


@pytest.fixture(scope="session")
def unchanged() -> Diagnosis:
    base = weights()
    return diagnose(base, {name: weight.clone() for name, weight in base.items()})


@pytest.fixture(scope="session")
def one_matrix() -> Diagnosis:
    base = {"w.weight": torch.eye(6) * torch.arange(6.0, 0, -1)}
    return diagnose(base, moved(base, rank=1))


@pytest.fixture(scope="session")
def hostile(report: Diagnosis) -> Diagnosis:
    return renamed(report, list(HOSTILE.values()))


@pytest.fixture(scope="session")
def comparison() -> ModelComparison:
    base = weights()
    return compare(base, {"small": moved(base, 1), "_large $x$": moved(base, 20), "\x1bnone": dict(base)})


@pytest.fixture(scope="session")
def sweep() -> ModelSweep:
    base = weights()
    return sweep_model(base, moved(base, rank=3), scales=(0, 0.1, 0.3, 0.6, 1, 1.5, 2), settings=Settings(k=4))


@pytest.fixture(scope="session")
def unswept() -> ModelSweep:
    base = weights()
    return sweep_model(base, {name: weight.clone() for name, weight in base.items()})


@pytest.fixture(scope="session")
def overlapping() -> ModelOverlap:
    base = weights()
    return overlap(base, moved(base, rank=3), moved(base, rank=6, seed=2), settings=Settings(k=4))


@pytest.fixture(scope="session", name="renamed")
def _renamed():
    return renamed


@pytest.fixture(scope="session", name="as_adapter")
def _as_adapter():
    return as_adapter
