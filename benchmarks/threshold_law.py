"""How far is the threshold law off? Its critical scale against the one a sweep finds, over random and real matrices.

    python benchmarks/threshold_law.py --json benchmarks/results/threshold-law.json [--data FOLDER --bases FOLDER]

Random: bases of five spectra and four shapes, updates of ranks 1 to 16, isotropic as the law assumes, or half within
the base's leading directions, as trained ones tend to be. Real: the demo's models and, where the folders of real
checkpoints are (see CONTRIBUTING), adapters made by strangers. That is the first crossing, looked for from 25
scales evenly spaced in the logarithm from a twentieth to twenty times what the law says.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from machine import described

from spectra import testing
from spectra.analysis.agreement import agreement
from spectra.analysis.settings import Settings
from spectra.analysis.sweep import follow, require_scales
from spectra.engine import dense
from spectra.loaders.pairing import open_pairs
from spectra.metrics.phase import PhaseCurve
from spectra.metrics.threshold import threshold
from spectra.updates import LowRank, WeightPair

ROOT = Path(__file__).parent.parent
SHAPES = ((128, 128), (192, 128), (128, 384), (224, 224))
SPECTRA = ("noise", "noise and spikes", "i^-0.3", "i^-0.7", "lognormal")
RANKS = (1, 4, 16)
_SPAN, _POINTS = 20.0, 25


def base_matrix(kind: str, m: int, n: int, seed: int) -> torch.Tensor:
    if kind.startswith("i^-"):
        return testing.decaying(m, n, seed=seed, exponent=float(kind[3:]))
    if kind == "lognormal":
        drawn = torch.randn(min(m, n), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        return testing.with_spectrum((0.8 * drawn).exp(), m, n, seed=seed)
    bulk = testing.noise(m, n, level=1.0, seed=seed)
    if kind == "noise":
        return bulk
    return bulk + testing.with_spectrum([4.0, 3.0, 2.5, 2.0, 1.7], m, n, seed=seed + 1)


def update_of(base: torch.Tensor, rank: int, aligned: bool, seed: int) -> LowRank:
    """Draw an update of this rank with a spectral norm within a factor of four of the base's tenth singular value."""
    U, S, Vh = torch.linalg.svd(base, full_matrices=False)
    draw = torch.Generator().manual_seed(seed)
    sides = []
    for at, top in enumerate((U[:, :16], Vh[:16].T)):
        side = testing.orthogonal(len(top), rank, seed=2 * seed + at)
        if aligned:  # half of the energy of each direction is the base's own
            side, _ = torch.linalg.qr(side + top @ testing.orthogonal(16, rank, seed=2 * seed + 7 + at))
        sides.append(side)
    strength = float(S[9]) * 4 ** (2 * float(torch.rand(1, generator=draw)) - 1)
    return LowRank(sides[0] * (strength * torch.linspace(1, 0.3, rank, dtype=torch.float64)), sides[1].T)


def random_pairs(aligned: bool, seeds: int, most: int | None) -> Iterator[WeightPair]:
    cases = [(kind, shape, rank) for shape in SHAPES for rank in RANKS for kind in SPECTRA] * seeds
    for seed, (kind, (m, n), rank) in enumerate(cases[:most]):
        base = base_matrix(kind, m, n, 10 * seed)
        yield testing.weight_pair(base, update_of(base, rank, aligned, 10 * seed + 5), key=f"{kind}.{seed}.weight")


def curves(pairs: Iterable[WeightPair], settings: Settings) -> Iterator[PhaseCurve]:
    """Follow each pair on a grid around what the law says of it; pairs without an update or a law are left out."""
    for pair in pairs:
        strongest = float(torch.linalg.matrix_norm(pair.update.dense().double(), 2))
        law = threshold(dense.singular_values(pair.base), pair.shape, strongest, k=settings.k) if strongest else None
        if law is None:
            continue
        steps = torch.linspace(-1, 1, _POINTS, dtype=torch.float64)
        yield follow(pair, require_scales((law.critical * _SPAN**steps).tolist()), settings)


def of_model(base: Path, tuned: Path, settings: Settings) -> list[PhaseCurve]:
    with open_pairs(base, tuned) as pairs:
        return list(curves(pairs, settings))


def judged(name: str, rows: list[PhaseCurve]) -> dict[str, Any]:
    """Say how well the law did: `analysis.agreement`, and the deciles of predicted over exact."""
    ratios = sorted(row.error for row in rows if row.error is not None)
    decile = {
        f"ratio_{share}": ratios[round(share / 100 * (len(ratios) - 1))] if ratios else None for share in (10, 90)
    }
    return {"name": name, "matrices": len(rows), **agreement(rows).to_dict(), **decile}


def real_models(data: Path | None, bases: Path | None) -> Iterator[tuple[str, Path, list[Path]]]:
    """Yield (name, base, tuned models): the demo's, and those of the folders that are given."""
    demo = ROOT / "spectra" / "demo"
    yield "demo, LoRA", demo / "base", [demo / "lora-r2", demo / "lora-r32"]
    yield "demo, full", demo / "base", [demo / "full"]
    if data is not None:
        tiny = data / "pairs" / "bert_tiny"
        yield "bert_tiny, LoRA", tiny / "ft_sst2_converted", sorted(tiny.glob("lora_*"))
        yield "bert_tiny, AdaLoRA", tiny / "ft_sst2_converted", sorted(tiny.glob("adalora_*"))
        if bases is not None:
            yield "minilm, LoRA", _only(bases / "minilm"), sorted((data / "pairs" / "minilm").iterdir())


def _only(folder: Path) -> Path:
    """The folder of a wheel's one model."""
    return next(iter(folder.rglob("model.safetensors"))).parent


def told(found: dict[str, Any]) -> str:
    def number(name: str, form: str = ".2f") -> str:
        return format(found[name], form) if found[name] is not None else "-"

    return (
        f"{found['name']:<24}{found['matrices']:>9}{found['compared']:>10}{number('share', '.0%'):>11}"
        f"{number('ratio'):>8}{number('ratio_10'):>7}{number('ratio_90'):>7}{number('auc'):>7}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1, help="random cases of each spectrum, shape and rank")
    parser.add_argument("--cases", type=int, help="only so many random cases, and no real ones")
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--data", type=Path, default=None, help="the folder of real adapters")
    parser.add_argument("--bases", type=Path, default=os.environ.get("SPECTRA_BASES"), help="that of their bases")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    started, settings = time.monotonic(), Settings(k=options.k, device="cpu")
    lines: list[dict[str, Any]] = []

    def judge(name: str, rows: list[PhaseCurve]) -> None:
        lines.append(judged(name, rows))
        print(told(lines[-1]), flush=True)

    print(f"{'':<24}{'matrices':>9}{'compared':>10}{'within 2x':>11}{'median':>8}{'10 %':>7}{'90 %':>7}{'AUC':>7}")
    for name, aligned in (("random, isotropic", False), ("random, aligned", True)):
        rows = list(curves(random_pairs(aligned, options.seeds, options.cases), settings))
        judge(name, rows)
        for kind in SPECTRA:
            judge(f"  {kind}", [row for row in rows if row.key.startswith(f"{kind}.")])
    real: list[PhaseCurve] = []
    models = real_models(options.data, Path(options.bases) if options.bases else None)
    for name, base, tuned in models if options.cases is None else ():
        rows = [row for model in tuned for row in of_model(base, model, settings)]
        real += rows
        judge(name, rows)
    if real:
        judge("real, all", real)
    print(f"{time.monotonic() - started:.0f} s")
    if options.json is not None:
        document = {
            "schema": 1,
            "k": options.k,
            "epsilon": settings.epsilon,
            "machine": described("cpu"),
            "lines": lines,
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
