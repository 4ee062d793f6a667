"""The folder that a study works in, and its results: rows of JSON lines that a killed command does not lose."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.study.prepare import Texts
from benchmarks.study.runs import Plan


class State:
    """Where everything is.

    folder : large files, which stay on the machine: texts/, base/, checkpoints/<run>/. results : small ones, to keep.
    """

    def __init__(self, folder: Path, results: Path, plan: Plan, device: str) -> None:
        self.folder, self.results, self.plan = folder, results, plan
        self.device = torch.device(device)
        self.base = folder / "base"
        results.mkdir(parents=True, exist_ok=True)

    def texts(self) -> Texts:
        return Texts(self.folder / "texts", self.device, self.plan.context, self.plan.windows)

    def checkpoint(self, run: str, step: int | None = None) -> Path:
        """The folder of a run's last weights, or of those after a step; "initial" where the start is kept."""
        return self.folder / "checkpoints" / run / ("final" if step is None else f"step-{step}")

    def initial(self, run: str) -> Path:
        """The folder of an adapter as it was before training."""
        return self.folder / "checkpoints" / run / "initial"

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Every row of one table, the last where there are two of one id. A line cut short by a kill is left out."""
        return list({row["id"]: row for row in _rows(self._table(table))}.values())

    def row(self, table: str, key: str) -> dict[str, Any] | None:
        return next((row for row in self.rows(table) if row["id"] == key), None)

    def done(self, table: str) -> set[str]:
        """What need not be done again: a row that failed is tried anew by the next call."""
        return {row["id"] for row in self.rows(table) if row["status"] == "ok"}

    def append(self, table: str, row: dict[str, Any]) -> None:
        """Add one row, on disk when this returns."""
        path = self._table(table)
        broken = path.exists() and not path.read_bytes().endswith(b"\n")
        with path.open("a", encoding="utf-8") as file:
            file.write(("\n" if broken else "") + json.dumps(rounded(row), allow_nan=False) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _table(self, table: str) -> Path:
        return self.results / f"{table}.jsonl"


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError:
            continue


def rounded(value: Any) -> Any:
    """Every float at six significant digits: the rows are small and read well."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list | tuple) else value
