"""The tables of a study as the figures read them."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy

from benchmarks.study.correlation import configuration
from benchmarks.study.runs import FULL, LORA

Row = dict[str, Any]


class AbsentError(Exception):
    """What a figure needs is not among the results: says what."""


@dataclass(frozen=True)
class Tables:
    """The results of one study: a folder of JSON lines and a summary.

    order : which of the study's tasks, 0 for the main one, the first in the table of runs. task : its name. main : its
    runs, without the configurations of which the summary calls a seed diverged: they are in the tables, and would hide
    all others on one axis. whole : with them, where they came back.
    """

    folder: Path
    order: int = 0
    whole: bool = False

    def rows(self, table: str) -> list[Row]:
        """Every finished row of a table. Raises AbsentError where there is none."""
        path = self.folder / f"{table}.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        found = {row["id"]: row for row in map(json.loads, filter(str.strip, lines))}
        done = [row for row in found.values() if row["status"] == "ok"]
        if not done:
            raise AbsentError(f"no finished row in {table}.jsonl")
        return done

    @cached_property
    def runs(self) -> list[Row]:
        """Runs from the base, each with its median critical scale where it was swept."""
        critical = {row["id"]: row["critical_median"] for row in self.rows("phases")} if self.has("phases") else {}
        return [row | {"critical_median": critical.get(row["id"])} for row in self.rows("runs") if alone(row)]

    @cached_property
    def task(self) -> str:
        tasks = list(grouped(self.runs, lambda row: str(row["task"])))
        if self.order >= len(tasks):
            raise AbsentError(f"the runs have {len(tasks)} tasks")
        found: str = tasks[self.order]
        return found

    @cached_property
    def second(self) -> "Tables":
        """The same of the second task."""
        return Tables(self.folder, order=1)

    @cached_property
    def real(self) -> "Tables":
        """The same of the model made by others: every run, as those that diverged there came back."""
        return Tables(self.folder / "real", whole=True)

    @cached_property
    def main(self) -> list[Row]:
        """The runs of the main task that are drawn."""
        own = [row for row in self.runs if row["task"] == self.task]
        diverged = () if self.whole else self.summary["diverged"]
        left_out = {configuration(row) for row in own if row["id"] in diverged}
        return [row for row in own if configuration(row) not in left_out]

    @cached_property
    def rates(self) -> dict[str, float]:
        """The main learning rate of LoRA and of full fine-tuning: the first in the table of runs."""
        return {
            method: next(row["learning_rate"] for row in self.main if row["method"] == method)
            for method in (LORA, FULL)
        }

    @cached_property
    def base(self) -> Row:
        return self.rows("base")[0]

    @cached_property
    def general(self) -> str:
        """The text that the base was trained on: the one that no run calls its task or another."""
        row = self.main[0]
        losses: dict[str, float] = self.base["losses"]
        return next(name for name in losses if name != row["task"] and name not in row["other_losses"])

    @cached_property
    def summary(self) -> Row:
        path = self.folder / "summary.json"
        if not path.exists():
            raise AbsentError("no summary.json: run the stage summary first")
        found: Row = json.loads(path.read_text(encoding="utf-8"))
        return found

    def has(self, table: str) -> bool:
        return (self.folder / f"{table}.jsonl").exists()

    def arrays(self, run: str) -> dict[str, numpy.ndarray]:
        """The matrices of one run, by name."""
        with numpy.load(self.folder / "matrices" / f"{run}.npz") as stored:
            return dict(stored)


def alone(row: Row) -> bool:
    """Whether a run starts from the base, with one alpha for all modules."""
    return not row["after"] and not row["budget_of"]


def doubled(row: Row) -> bool:
    """Whether alpha is twice the rank."""
    return row["rank"] is not None and row["alpha"] == 2 * row["rank"]


def grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    """Rows by a key, in the order in which each first appears."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        found.setdefault(key(row), []).append(row)
    return found


def spectra(name: str) -> Callable[[Row], float]:
    """How to take one of spectra's numbers out of a row."""
    return lambda row: float(
        row["spectra"]["counts"][name] if name in row["spectra"]["counts"] else row["spectra"][name]
    )


def rate(value: float) -> str:
    """A learning rate in few signs: 3e-4."""
    digits, _, exponent = f"{value:e}".partition("e")
    return f"{float(digits):g}e{int(exponent)}"
