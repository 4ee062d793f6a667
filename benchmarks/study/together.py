"""Two tasks in one model: one learnt after the other, and both updates added to the base."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.study import model as models
from benchmarks.study import training
from benchmarks.study.finetune import merged_folder
from benchmarks.study.measure import compact, diagnosis
from benchmarks.study.prepare import Texts
from benchmarks.study.runs import Plan, Run, grid
from benchmarks.study.state import State


@dataclass(frozen=True)
class Sequence:
    """The first task's run, the second task's run from the base, and the second task's run after the first."""

    first: Run
    second: Run
    after: Run

    @property
    def id(self) -> str:
        return self.after.id


def sequences(plan: Plan) -> list[Sequence]:
    """Every run after another, with the two runs that it consists of."""
    runs = {run.id: run for run in grid(plan)}
    found = []
    for run in runs.values():
        if run.after:
            alone = Run(**{**run.__dict__, "after": ""})
            found.append(Sequence(runs[run.after], runs[alone.id], run))
    return found


def together(sequence: Sequence, state: State, texts: Texts) -> dict[str, Any]:
    """Score and measure the base's losses at each stage: the first task, the second after it, and the sum of both."""
    stages = {
        "first": merged_folder(sequence.first.id, state),
        "second": merged_folder(sequence.second.id, state),
        "second after first": state.checkpoint(sequence.after.id) / "merged",
        "sum": _sum(sequence, state),
    }
    return {
        **sequence.after.to_dict(),
        "status": "ok",
        "reason": "",
        "tasks": [sequence.first.task, sequence.second.task],
        "stages": {name: _stage(folder, state, texts) for name, folder in stages.items()},
    }


def _sum(sequence: Sequence, state: State) -> Path:
    """The base with the updates of both tasks added (task arithmetic, arXiv:2212.04089, at scale 1)."""
    folder = state.checkpoint(sequence.after.id).parent / "sum"
    if not (folder / "config.json").exists():
        base = models.load(state.base, torch.device("cpu"))
        parts = [
            models.load(merged_folder(run.id, state), torch.device("cpu")) for run in (sequence.first, sequence.second)
        ]
        with torch.no_grad():
            for name, weight in base.named_parameters():
                weight.copy_(sum(part.get_parameter(name) for part in parts) - weight)
        models.save(base, folder)
    return folder


def _stage(folder: Path, state: State, texts: Texts) -> dict[str, Any]:
    model = models.load(folder, state.device)
    return {
        "losses": {name: training.bits_per_byte(model, text) for name, text in texts.held_out.items()},
        "spectra": compact(diagnosis(state.base, folder)),
    }
