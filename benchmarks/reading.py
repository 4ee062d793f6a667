"""Reading every tensor of a checkpoint, beside a plain read() of the same bytes: time, its ratio, and peak memory.

    PYTHONPATH=. python benchmarks/reading.py --folder /tmp --json reading.json

A checkpoint of bfloat16 matrices in the shapes of Llama-2-7B (4096 x 4096, 11008 x 4096) and vectors, in shards, is
written for each container and removed afterwards; the last one has many small matrices, as experts have. "Read" means
that the bytes have arrived in memory of one's own: what a mapped file hands out (a torch pickle) is copied. The plain
read takes as many bytes for each tensor, in the order of the file, into a new buffer. Both take turns in a
process of their own.
Warm: the file is in the system's page cache. Cold: `posix_fadvise(DONTNEED)` has asked the system to drop it, which
it may do in part; a virtual disk may keep its own. The best of each way's repeats is taken: others use the machine.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import fresh
import machine
import torch
from safetensors.torch import save_file

from spectra.loaders.source import open_source
from spectra.text import size

CONTAINERS = ("safetensors", "torch pickle", "experts")
Shape = tuple[int, ...]


def layers(scale: int) -> list[tuple[str, Shape]]:
    """Names and shapes of two blocks of a Llama, every extent divided by `scale`."""
    wide, tall = 4096 // scale, 11008 // scale
    named: list[tuple[str, Shape]] = []
    for block in range(2):
        front = f"model.layers.{block}"
        named += [(f"{front}.self_attn.{name}_proj.weight", (wide, wide)) for name in "qkvo"]
        named += [(f"{front}.mlp.{name}_proj.weight", (tall, wide)) for name in ("gate", "up")]
        named += [(f"{front}.mlp.down_proj.weight", (wide, tall)), (f"{front}.input_layernorm.weight", (wide,))]
    return named


def experts(scale: int) -> list[tuple[str, Shape]]:
    """Names and shapes of many small matrices in one file."""
    side = 512 // scale
    return [(f"model.layers.{n // 128}.mlp.experts.{n % 128}.up_proj.weight", (side, side)) for n in range(2000)]


def written(container: str, folder: Path, scale: int) -> Path:
    """Write a checkpoint: two shards and their index, or one file of many tensors."""
    named = experts(scale) if container == "experts" else layers(scale)
    shards = 1 if container == "experts" else 2
    suffix, stem = (".bin", "pytorch_model") if container == "torch pickle" else (".safetensors", "model")
    generator, places = torch.Generator().manual_seed(0), {}
    for shard in range(shards):
        part = named[shard * len(named) // shards : (shard + 1) * len(named) // shards]
        tensors = {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in part}
        path = folder / f"{stem}-{shard + 1:05}-of-{shards:05}{suffix}"
        save_file(tensors, path) if suffix == ".safetensors" else torch.save(tensors, path)
        places |= dict.fromkeys(tensors, path.name)
    (folder / f"{stem}{suffix}.index.json").write_text(json.dumps({"weight_map": places}, sort_keys=True))
    return folder


def through_the_source(folder: Path) -> int:
    """Read every tensor as an analysis does and return the bytes."""
    source, total = open_source(folder), 0
    mapped = source.header.container.startswith("torch pickle")
    for key in source.header.tensors:
        tensor = source.tensor(key)
        total += tensor.clone().nbytes if mapped else tensor.nbytes
        del tensor
    source.close()
    return total


def plainly(folder: Path) -> int:
    """Read as many bytes with read(), tensor by tensor in the order of the files."""
    header, total = open_source(folder).header, 0
    paths = sorted({info.file for info in header.tensors.values() if info.file is not None})
    for path in paths:
        with path.open("rb", buffering=0) as file:
            for info in header.tensors.values():
                if info.file == path:
                    total += len(file.read(info.bytes))
    return total


WAYS: dict[str, Callable[[Path], int]] = {"source": through_the_source, "plain": plainly}


def dropped(folder: Path) -> None:
    """Ask the system to forget the files' pages."""
    for path in folder.iterdir():
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def measured(folder: Path, repeats: int, cold: bool) -> dict[str, Any]:
    """Read both ways in turn: the seconds of every repeat, the bytes, and the peak of memory above the start's."""
    found: dict[str, Any] = {name: {"seconds": [], "bytes": 0, "peak_bytes": 0} for name in WAYS}
    plainly(folder)  # into the page cache
    for _ in range(repeats):
        for name, reader in WAYS.items():
            if cold:
                dropped(folder)
            before = fresh._lowest("cpu")
            began = time.perf_counter()
            found[name]["bytes"] = reader(folder)
            found[name]["seconds"].append(time.perf_counter() - began)
            highest = fresh._highest("cpu")
            if before is not None and highest is not None:
                found[name]["peak_bytes"] = max(found[name]["peak_bytes"], highest - before)
    for one in found.values():
        one["best"] = min(one["seconds"])
    return {**found, "ratio": found["plain"]["best"] / found["source"]["best"]}


def lines(containers: Sequence[str], arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure every container, warm and cold, both ways in turn."""
    for container in containers:
        folder = Path(tempfile.mkdtemp(dir=arguments.folder))
        try:
            written(container, folder, arguments.scale)
            largest = max(info.bytes for info in open_source(folder).header.tensors.values())
            for cold in (False, True):
                answer = fresh.run(measured, folder, arguments.repeats, cold)
                yield {"container": container, "cold": cold, "largest": largest, **answer}
        finally:
            shutil.rmtree(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--containers", nargs="+", choices=CONTAINERS, default=CONTAINERS)
    parser.add_argument("--folder", type=Path, help="where the checkpoints are written (default: the system's)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--scale", type=int, default=1, help="divide every extent by this, for a quick try")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    fresh.start()
    where = machine.described("cpu")
    print(machine.in_words(where), f"best of {arguments.repeats}; ratio: time of a plain read() by ours", sep="\n")
    print(f"{'container':<14}{'cache':<7}{'bytes':>10}{'GB/s':>8}{'plain':>8}{'ratio':>7}{'peak':>11}{'largest':>11}")
    found = []
    for line in lines(arguments.containers, arguments):
        ours, plain = line["source"], line["plain"]
        speeds = [one["bytes"] / one["best"] / 1e9 for one in (ours, plain)]
        print(
            f"{line['container']:<14}{'cold' if line['cold'] else 'warm':<7}{size(ours['bytes']):>10}{speeds[0]:>8.2f}"
            f"{speeds[1]:>8.2f}{line['ratio']:>7.2f}{size(ours['peak_bytes']):>11}{size(line['largest']):>11}",
            flush=True,
        )
        found.append(line)
    if arguments.json:
        arguments.json.write_text(json.dumps({"schema": 1, "machine": where, "lines": found}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
