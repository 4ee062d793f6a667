"""training.json: how the shipped models were trained and chosen, and what the stored files show, read back."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import peft
import torch

import spectra
from benchmarks.study import model as models
from benchmarks.study import training
from benchmarks.study.measure import compact, diagnosis
from benchmarks.study.prepare import INDEX, Texts
from benchmarks.study.state import State, rounded
from benchmarks.study.trio.choice import RULE, intruders
from spectra.errors import InputError
from spectra.text import show

Row = dict[str, Any]
BASE, RECORD = "base", "training.json"


def recorded(
    state: State, plan: str, rows: Mapping[str, Sequence[Row]], chosen: Mapping[str, Row], folder: Path
) -> Row:
    """Return the record of the models stored in `folder`.

    texts : source, licence and hashes. measured : what the numbers are. machines : where the study was trained and
    measured. base and each model : settings, `held_out` losses and, of a model, `intruders` and `update_over_base`, all
    of the stored files; its `runs`: the same of every rate and seed as trained, before float16. sha256 : of each file
    of weights.
    """
    texts = state.texts()
    found: Row = {
        "plan": plan,
        "models": list(chosen),
        "rule": RULE,
        "texts": _sources(state),
        "measured": _measured(state, texts),
        "machines": _machines(state),
        BASE: _base(state, texts, folder / BASE),
        **{
            name: {
                **{key: row[key] for key in ("rank", "alpha", "learning_rate", "seed", "steps", "batch")},
                "trained_parameters": row["trained_parameters"],
                "held_out": _held_out(_loaded(folder, name, state.device), texts),
                **_shown(diagnosis(folder / BASE, folder / name)),
                "runs": [_run(one) for one in rows[name]],
            }
            for name, row in chosen.items()
        },
        "sha256": {path.relative_to(folder).as_posix(): digest(path) for path in weights(folder)},
    }
    return {name: rounded(value) for name, value in found.items()}


def weights(folder: Path) -> list[Path]:
    """The files of weights of a folder of models."""
    return sorted(folder.glob("*/*.safetensors"))


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sources(state: State) -> Row:
    index = json.loads((state.folder / "texts" / INDEX).read_text(encoding="utf-8"))
    return {
        name: {
            **{key: text[key] for key in ("source", "licence")},
            **{part: {key: text[part][key] for key in ("bytes", "sha256")} for part in ("train", "held_out")},
        }
        for name, text in index["texts"].items()
    }


def _measured(state: State, texts: Texts) -> Row:
    return {
        "losses": "bits per byte of held-out text, in float32; windows do not overlap, their first token is not scored",
        "windows": state.plan.windows,
        "context": state.plan.context,
        "scored_bytes": {name: text.scored_bytes for name, text in texts.held_out.items()},
        "forgetting": f"the loss on {texts.general} minus the base's",
        "intruders": f"among the k leading left directions of each matrix in '{models.BLOCKS}', by full decompositions",
    }


def _machines(state: State) -> list[Row]:
    """Every machine, with its versions, that worked on the study: at which stages, for how many seconds before this."""
    found: dict[str, Row] = {}
    for row in state.rows("log"):
        where = {name: row[name] for name in ("device", "cpu", "cores", "python", "versions")}
        one = found.setdefault(json.dumps(where), {"stages": [], "seconds": 0.0, **where})
        one["stages"] += [stage for stage in row["stages"] if stage not in one["stages"]]
        one["seconds"] += row["seconds"]
    if not any("runs" in one["stages"] for one in found.values()):
        raise InputError(
            f"'{show(state.results / 'log.jsonl')}' does not say where the runs were trained (a call that is killed "
            "writes no line): call the stage 'runs' once more on that machine, which trains nothing twice."
        )
    return list(found.values())


def _base(state: State, texts: Texts, folder: Path) -> Row:
    row, plan = state.row("base", "base"), state.plan
    assert row is not None
    model = models.load(folder, state.device)
    return {
        **{name: row[name] for name in ("seed", "parameters", "in_blocks", "steps", "tokens_seen", "seconds")},
        "batch": plan.pretrain_batch,
        "learning_rate": plan.pretrain_rate,
        "vocabulary": model.config.vocab_size,
        "held_out": _held_out(model, texts),
    }


def _loaded(folder: Path, name: str, device: torch.device) -> torch.nn.Module:
    """A stored model in float32, an adapter on the stored base."""
    if not (folder / name / "adapter_config.json").exists():
        return models.load(folder / name, device)
    return peft.PeftModel.from_pretrained(models.load(folder / BASE, device), folder / name)


def _held_out(model: torch.nn.Module, texts: Texts) -> Row:
    return {name: {"bits_per_byte": training.bits_per_byte(model, text)} for name, text in texts.held_out.items()}


def _shown(report: spectra.Report) -> Row:
    numbers = compact(report)
    return {
        "intruders": {
            "count": numbers["counts"]["count"],
            "examined": numbers["examined"],
            **{name: report.provenance[name] for name in ("k", "epsilon", "side")},
        },
        "matrices": numbers["matrices"],
        "update_over_base": numbers["update_over_base"],
    }


def _run(row: Row) -> Row:
    return {
        **{name: row[name] for name in ("learning_rate", "seed", "task_loss", "forgetting")},
        "intruders": intruders(row),
        "update_over_base": row["spectra"]["update_over_base"],
    }
