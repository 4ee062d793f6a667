"""Many small jobs side by side on one accelerator: a run of this size leaves it idle most of the time."""

import json
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import torch
import transformers

from benchmarks.study.prepare import Texts
from benchmarks.study.state import State

Job = Callable[[Any, State, Texts], dict[str, Any]]


@dataclass
class Workplace:
    """What a worker process opens once."""

    state: State
    texts: Texts
    until: float


_here: list[Workplace] = []


def open_workplace(state: State, until: float) -> None:
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    _here[:] = [Workplace(state, state.texts(), until)]


def do(job: Job, key: str, task: Any) -> dict[str, Any] | None:
    """Do one job. None: the time was up before it began. A fault is a row with its reason."""
    here = _here[0]
    if time.time() > here.until:
        return None
    try:
        row = job(task, here.state, here.texts)
        json.dumps(row, allow_nan=False)  # a number that is none is a fault of the run
        return row
    except Exception as fault:  # noqa: BLE001 - whatever fails in one run is its row, the others go on
        traceback.print_exc()
        return {"id": key, "status": "failed", "reason": f"{type(fault).__name__}: {fault}"[:300]}


def work(state: State, table: str, job: Job, tasks: Sequence[tuple[str, Any]], *, workers: int, until: float) -> int:
    """Do every (key, task) whose key has no row in the table, and write its row as soon as it is there.

    Returns the number left undone because the time was up.
    """
    done = state.done(table)
    left = [(key, task) for key, task in tasks if key not in done]
    if not left:
        return 0
    undone = 0
    if workers == 1:
        open_workplace(state, until)
        for key, task in left:
            undone += not _keep(state, table, do(job, key, task))
        return undone
    with ProcessPoolExecutor(
        min(workers, len(left)), get_context("spawn"), initializer=open_workplace, initargs=(state, until)
    ) as pool:
        for future in as_completed([pool.submit(do, job, key, task) for key, task in left]):
            undone += not _keep(state, table, future.result())
    return undone


def _keep(state: State, table: str, row: dict[str, Any] | None) -> bool:
    if row is not None:
        state.append(table, row)
        print(f"{table}: {row['id']} {row['status']} {row['reason']}".rstrip(), flush=True)
    return row is not None
