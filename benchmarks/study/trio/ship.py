"""A plan's base and one run of each model, written as `spectra demo` reads them, with their record."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import peft
import torch
import transformers

from benchmarks.study import methods
from benchmarks.study import model as models
from benchmarks.study.prepare import VOCABULARY
from benchmarks.study.runs import Run
from benchmarks.study.state import State, rounded
from benchmarks.study.trio import choice
from benchmarks.study.trio.page import page
from benchmarks.study.trio.record import BASE, RECORD, recorded, weights
from spectra.errors import InputError
from spectra.text import listing, show

Row = dict[str, Any]
BASE_NAME = "spectra-demo-base"
MOST_BYTES = 8_000_000
CPU = torch.device("cpu")


def ship(state: State, plan: str, folder: Path) -> Row:
    """Write base/, a folder a model, training.json and README.md into `folder` and return the record.

    Weights are in float16; what `folder` holds under the same names is replaced. plan : the name of state.plan.
    Raises InputError, and leaves `folder` as it is, where a run of the plan or a file is missing, where the base is
    not kept in float16 (an adapter belongs to the very weights it was trained on), and where all is over 8 MB.
    """
    rows = finished(state)
    _check_base(state)
    chosen = {name: choice.choose(part) for name, part in rows.items()}
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".new-", dir=folder) as aside:
        new = Path(aside)
        _store(state, chosen, new)
        record = recorded(state, plan, rows, chosen, new)
        (new / RECORD).write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        (new / "README.md").write_text(page(record), encoding="utf-8")
        _check_size(new)
        for path in weights(new):
            path.chmod(0o644)  # safetensors leaves a file to its owner alone, and the package is for every user
        for part in sorted(new.iterdir()):
            _replace(folder / part.name, part)
    return record


def finished(state: State) -> dict[str, list[Row]]:
    """The rows of every run of every model of the plan. Raises InputError where one is not there."""
    wanted = choice.models(state.plan)
    done = {row["id"]: row for row in state.rows("runs") if row["status"] == "ok"}
    runs = [run for part in wanted.values() for run in part]
    missing = [run.id for run in runs if not _is_of(done.get(run.id), run)]
    if missing:
        raise InputError(
            f"{len(missing)} of the {len(runs)} runs to choose from have no finished row with the plan's settings in "
            f"'{show(state.results / 'runs.jsonl')}' ({listing(missing, 3)}): train them first, by the stage 'runs'."
        )
    return {name: [done[run.id] for run in part] for name, part in wanted.items()}


def _is_of(row: Row | None, run: Run) -> bool:
    """Whether a row is of this very run: its id does not tell the steps and the batch, which a plan may change."""
    return row is not None and all(row.get(name) == value for name, value in rounded(run.to_dict()).items())


def _check_base(state: State) -> None:
    row, plan = state.row("base", "base"), state.plan
    if row is None:
        raise InputError(
            f"'{show(state.results / 'base.jsonl')}' has no row of the base: train it first, stage 'base'."
        )
    if row["stored"] != "float16":
        raise InputError(
            f"the base in '{show(state.base)}' is kept in {show(row['stored'])} and would move when it is shipped in "
            "float16, away from what its fine-tunes were trained on: take a plan that keeps it in float16."
        )
    planned = plan.pretrain_steps * plan.pretrain_batch * plan.context
    if row["tokens_seen"] != planned:
        raise InputError(
            f"the base in '{show(state.base)}' was trained on {row['tokens_seen']:,} tokens, and the plan has "
            f"{planned:,}: train it by this plan, in another --folder."
        )


def _store(state: State, chosen: Mapping[str, Row], new: Path) -> None:
    base = _needed(state.base)
    _store_model(models.load(base, CPU), new / BASE)
    vocabulary = _needed(state.folder / "texts" / VOCABULARY)
    transformers.PreTrainedTokenizerFast(tokenizer_file=str(vocabulary)).save_pretrained(new / BASE)
    for name, row in chosen.items():
        checkpoint = _needed(state.checkpoint(row["id"]))
        if row["rank"] is None:
            _store_model(models.load(checkpoint, CPU), new / name)
        else:
            wrapped = peft.PeftModel.from_pretrained(models.load(base, CPU), checkpoint)
            wrapped.peft_config["default"].base_model_name_or_path = BASE_NAME
            methods.save(wrapped.half(), new / name)


def _needed(path: Path) -> Path:
    if not path.exists():
        raise InputError(
            f"'{show(path)}' is not there: --folder must hold the texts, base and checkpoints of the study."
        )
    return path


def _store_model(model: transformers.PreTrainedModel, folder: Path) -> None:
    """Store a model, used up by it, without the settings for generating text, which are not its own."""
    models.save(model.half(), folder, torch.float16)
    (folder / "generation_config.json").unlink(missing_ok=True)


def _check_size(folder: Path) -> None:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if size > MOST_BYTES:
        raise InputError(
            f"the models are {size:,} bytes together, over the {MOST_BYTES:,} that the package may carry: "
            "take a plan with a smaller model or fewer ranks."
        )


def _replace(old: Path, new: Path) -> None:
    if old.is_dir():
        shutil.rmtree(old)
    new.replace(old)
