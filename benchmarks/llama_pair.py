"""All 224 matrices of a Llama-2-7B-shaped pair, bfloat16 in host memory, certified on a CUDA device.

    PYTHONPATH=. python benchmarks/llama_pair.py --json llama_pair.json

Reading is pinned and double-buffered (`spectra.engine.feed`); two batches are computed at a time, on streams of their
own, so that the host's part of one hides behind the device's part of the other. Four different matrices of each shape
stand for all of them: what is timed is moving and deciding 224 matrices, not reading files.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from spectra.engine.certified import Question, certify
from spectra.engine.feed import Feed
from spectra.engine.krylov import Operator
from spectra.engine.leading import leading

WORK = {(4096, 4096): 128, (11008, 4096): 64, (4096, 11008): 32}
RANK, K, OUTLIERS, DIFFERENT = 16, 10, 12, 4
Shape = tuple[int, int]


def base(shape: Shape, generator: torch.Generator) -> torch.Tensor:
    """A bulk with outliers, as trained weights have. [m, n], bfloat16, on the host"""
    m, n = shape
    device = generator.device
    W = torch.randn(m, n, device=device, generator=generator) / math.sqrt(max(m, n))
    U, V = (torch.linalg.qr(torch.randn(size, OUTLIERS, device=device, generator=generator)).Q for size in shape)
    return (W + (U * torch.linspace(2.2, 8, OUTLIERS, device=device)) @ V.T).bfloat16().cpu()


def updates(shape: Shape, count: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors of rank 16, five directions strong enough to lead."""
    m, n = shape
    device = generator.device
    strength = torch.cat([torch.linspace(5.4, 3.6, 5), torch.linspace(1.5, 0.3, RANK - 5)]).to(device)
    B = torch.randn(count, m, RANK, device=device, generator=generator) / math.sqrt(m) * strength
    return B, torch.randn(count, RANK, n, device=device, generator=generator) / math.sqrt(n)


class Pair:
    """The matrices on the host, the factors on the device, and streams to compute on."""

    def __init__(self, batch: int, workers: int) -> None:
        generator = torch.Generator("cuda").manual_seed(0)
        self.bases = {shape: [base(shape, generator) for _ in range(DIFFERENT)] for shape in WORK}
        self.factors = {shape: updates(shape, batch, generator) for shape in WORK}
        self.batch, self.workers, self.feed = batch, workers, Feed("cuda")
        self.streams = [torch.cuda.Stream() for _ in range(workers)]

    def batches(self) -> Iterator[list[torch.Tensor]]:
        for shape, count in WORK.items():
            for first in range(0, count, self.batch):
                yield [self.bases[shape][at % DIFFERENT] for at in range(first, min(count, first + self.batch))]

    def decide(self, W: torch.Tensor, ready: torch.cuda.Event, stream: torch.cuda.Stream) -> list[bool]:
        B, A = (factor[: len(W)] for factor in self.factors[tuple(W.shape[1:])])
        with torch.cuda.stream(stream):
            stream.wait_event(ready)
            W.record_stream(stream)
            found = certify(
                Operator(W), leading(Operator(W, B, A), K), side="left", question=Question(0.5, 16), most=40
            )
            stream.synchronize()
        return [one is not None for one in found]

    def run(self) -> list[bool]:
        waiting: list[Future[list[bool]]] = []
        with ThreadPoolExecutor(self.workers) as pool:
            for at, W in enumerate(self.feed(self.batches())):
                ready = torch.cuda.Event()
                ready.record()
                waiting.append(pool.submit(self.decide, W, ready, self.streams[at % self.workers]))
                if at >= self.workers:
                    waiting[at - self.workers].result()  # no more on the device than are computed
            return [decided for future in waiting for decided in future.result()]


def timed(pair: Pair) -> tuple[float, list[bool]]:
    torch.cuda.synchronize()
    started = time.perf_counter()
    decided = pair.run()
    torch.cuda.synchronize()
    return time.perf_counter() - started, decided


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    pair = Pair(options.batch, options.workers)
    timed(pair)
    runs = [timed(pair) for _ in range(options.repeats)]
    seconds = [one for one, _ in runs]
    decided = sum(runs[-1][1])
    moved = sum(2 * m * n * count for (m, n), count in WORK.items()) / 1e9
    record = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "matrices": len(runs[-1][1]),
        "decided": decided,
        "seconds": seconds,
        "median": statistics.median(seconds),
        "gigabytes": moved,
        "batch": options.batch,
        "workers": options.workers,
        "device_memory_gib": torch.cuda.max_memory_allocated() / 2**30,
    }
    print(
        f"{record['device']}, torch {record['torch']}: {record['matrices']} matrices ({moved:.1f} GB in bfloat16 from "
        f"host memory), {decided} decided without a full SVD: {record['median']:.2f} s (least {min(seconds):.2f} s)"
    )
    if options.json:
        options.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
