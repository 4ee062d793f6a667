"""One piece of work in a process of its own: its times, and the memory it takes at its highest.

The process is a fork of one that has imported torch and done nothing yet, so that every line of a benchmark
starts alike. Memory is the kernel's high-water mark of the first run less what was resident before it (on CUDA,
torch's own two counters).
"""

import ctypes
import gc
import multiprocessing
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

SLOW = 3.0  # seconds from which one run is enough
_CLEAR_REFS, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")
_PRELOADED = ["torch", "spectra.engine.choose", "spectra.testing"]


@dataclass(frozen=True, slots=True)
class Cost:
    """times : seconds of each timed run. memory : bytes above what was there before, None where it is not known."""

    times: tuple[float, ...]
    memory: int | None

    @property
    def median(self) -> float:
        return statistics.median(self.times)


def start() -> None:
    """Start the process that the others are forked from. Call before anything is computed."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(_PRELOADED)


def run(work: Callable[..., Any], *arguments: Any) -> Any:
    """Call `work(*arguments)` in a fresh process and return what it returns, or raise RuntimeError with its end."""
    context = multiprocessing.get_context("forkserver")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(there, work, arguments))
    process.start()
    there.close()
    try:
        return here.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the process ended with exit code {process.exitcode} and no answer") from None
    finally:
        process.join()


def _send(connection: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    connection.send(work(*arguments))


def cost(work: Callable[[], Any], *, device: str, repeats: int, pause: float) -> tuple[Cost, Any]:
    """Run work, and again `repeats` times where one run is short; return its cost and what the first run gave.

    The first run is the one whose memory is taken. Its time counts only where no more are made.
    """
    before = _lowest(device)
    seconds, answer = _timed(work, device)
    highest = _highest(device)
    memory = None if before is None or highest is None else max(0, highest - before)
    times = [seconds]
    if seconds < SLOW and repeats:
        times = []
        for _ in range(repeats):
            time.sleep(pause)
            times.append(_timed(work, device)[0])
    return Cost(tuple(times), memory), answer


def _timed(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    _wait(device)
    began = time.perf_counter()
    answer = work()
    _wait(device)
    return time.perf_counter() - began, answer


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def _lowest(device: str) -> int | None:
    """Give back what is free, reset the high-water mark, and return what is held."""
    gc.collect()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    if not _CLEAR_REFS.exists():  # not Linux
        return None
    ctypes.CDLL(None).malloc_trim(0)
    _CLEAR_REFS.write_text("5")
    return _status("VmRSS")


def _highest(device: str) -> int | None:
    if device != "cpu":
        return torch.cuda.max_memory_allocated()
    return _status("VmHWM") if _STATUS.exists() else None


def _status(field: str) -> int:
    (line,) = [line for line in _STATUS.read_text().splitlines() if line.startswith(field + ":")]
    return int(line.split()[1]) * 1024
