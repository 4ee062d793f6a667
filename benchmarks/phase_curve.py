"""The phase curve against one single answer: 40 scales of one matrix, the base known, on the CPU.

    python benchmarks/phase_curve.py [--size 4096] [--rank 16] [--repeat 5]

The base is a random orthogonal basis with decaying singular values, so that no decomposition is waited for. Prints one
JSON object; times are the least of `repeat` runs, in seconds.
"""

import argparse
import json
import time
from collections.abc import Callable

import torch

from spectra.analysis.sweep import SCALES
from spectra.engine.choose import Decompositions, Request, decompose
from spectra.engine.decomposition import SVD
from spectra.engine.scales import Scaled
from spectra.metrics.intruders import intruders
from spectra.testing import weight_pair
from spectra.updates import LowRank


def known_base(n: int, exponent: float) -> SVD:
    generator = torch.Generator().manual_seed(0)
    U, V = (torch.linalg.qr(torch.randn(n, n, generator=generator)).Q for _ in range(2))
    return SVD(U, torch.arange(1, n + 1, dtype=torch.float32) ** -exponent, V.T.contiguous(), 0.0, 0.0, "constructed")


def least(run: Callable[[], object], repeat: int) -> float:
    taken = []
    for _ in range(repeat):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return min(taken)


def counts(found: list[Decompositions]) -> list[int]:
    return [intruders(one.resemblances[0], one.tuned_values, one.moved, energy=1.0).count for one in found]


def main() -> None:
    options = argparse.ArgumentParser()
    options.add_argument("--size", type=int, default=4096)
    options.add_argument("--rank", type=int, default=16)
    options.add_argument("--exponent", type=float, default=0.7)
    options.add_argument("--strength", type=float, default=0.4, help="spectral norm of the update over sigma_1")
    options.add_argument("--repeat", type=int, default=5)
    asked = options.parse_args()
    base = known_base(asked.size, asked.exponent)
    generator = torch.Generator().manual_seed(1)
    B, A = (torch.randn(asked.size, asked.rank, generator=generator) / asked.size**0.5 for _ in range(2))
    pair = weight_pair((base.U * base.S) @ base.Vh, LowRank(asked.strength * B, A.T))
    request, scales = Request(method="basis"), SCALES[1:]
    single = least(lambda: decompose(pair, request, base=base), asked.repeat)
    judged = least(lambda: counts([decompose(pair, request, base=base)]), asked.repeat)
    curve = least(lambda: Scaled(pair, base, request).at(scales), asked.repeat)
    verdicts = least(lambda: counts(Scaled(pair, base, request).at(scales)), asked.repeat)
    ready = Scaled(pair, base, request)
    probe = least(lambda: ready.near_crossing(0.513), asked.repeat)
    told = {
        "size": asked.size, "rank": asked.rank, "threads": torch.get_num_threads(), "scales": len(scales),
        "single": single, "single_with_verdicts": judged, "curve": curve, "curve_with_verdicts": verdicts,
        "one_scale_more": probe, "ratio": curve / single, "ratio_with_verdicts": verdicts / judged,
        "methods": sorted({one.method for one in ready.at(scales)}), "counts": counts(ready.at(scales)),
    }  # fmt: skip
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()
