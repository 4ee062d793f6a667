"""Which finished run stands for a model: one learning rate by a rule, then the seed in the middle."""

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.study.runs import FULL, LORA, Plan, Run, grid

Row = dict[str, Any]
RULE = {
    "learning_rate": "the one with the lowest held-out task loss, averaged over seeds; of several, the smallest",
    "seed": "of that rate, the run with the median number of intruders; of several, the one nearest the median "
    "forgetting of all seeds",
}


def models(plan: Plan) -> dict[str, list[Run]]:
    """The models of a plan's first task, each with its runs at every rate and seed.

    LoRA at alpha = 2r by rank, then full fine-tuning, named as the folders that hold them: "lora-r2", "full".
    """
    found: dict[str, list[Run]] = {}
    runs = [run for run in grid(plan) if run.task == plan.tasks[0] and not run.parent]
    for run in sorted(runs, key=lambda run: run.rank or math.inf):
        if run.method == FULL:
            found.setdefault(FULL, []).append(run)
        elif run.method == LORA and run.alpha == 2.0 * (run.rank or 0):
            found.setdefault(f"{LORA}-r{run.rank}", []).append(run)
    return found


def choose(rows: Sequence[Row]) -> Row:
    """Return the row of the run that stands for a model, of its rows at every rate and seed, by RULE."""
    loss = {rate: statistics.fmean(row["task_loss"] for row in part) for rate, part in by_rate(rows).items()}
    return _middle(by_rate(rows)[min(loss, key=lambda rate: (loss[rate], rate))])


def by_rate(rows: Iterable[Row]) -> dict[float, list[Row]]:
    """The rows of each learning rate, the smallest rate first."""
    found: dict[float, list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["learning_rate"]):
        found.setdefault(row["learning_rate"], []).append(row)
    return found


def intruders(row: Row) -> int:
    count: int = row["spectra"]["counts"]["count"]
    return count


def _middle(rows: Sequence[Row]) -> Row:
    median = statistics.median_low(map(intruders, rows))
    forgetting = statistics.median(row["forgetting"] for row in rows)
    with_median = [row for row in rows if intruders(row) == median]
    return min(with_median, key=lambda row: (abs(row["forgetting"] - forgetting), row["seed"]))
