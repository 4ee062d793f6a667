"""One run from its start to its row: train, score, store, measure."""

import os
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

import spectra
from benchmarks.study import methods, training
from benchmarks.study import model as models
from benchmarks.study.measure import compact, diagnosis
from benchmarks.study.phases import FINE
from benchmarks.study.prepare import Texts
from benchmarks.study.runs import BUDGET_MARGIN, Run
from benchmarks.study.state import State

ORDER_SEED = 1000


def finetune(run: Run, state: State, texts: Texts) -> dict[str, Any]:
    """Do one run and return its row.

    Losses are in bits per byte on held-out text, in float32: `task` of the run's own, `general` of the text that the
    base was trained on, `others` of the other tasks. forgetting = general after - general before, of the base.
    """
    started = time.perf_counter()
    pattern = alpha_pattern(run, state)
    history, trained_parameters = _train(run, state, texts, pattern)
    if state.device.type == "cuda":
        torch.cuda.empty_cache()  # what follows needs none of it, and the other workers do
    trained = time.perf_counter() - started
    return {
        **run.to_dict(),
        "status": "ok",
        "reason": "",
        "trained_parameters": trained_parameters,
        "alpha_pattern": _described(pattern, run),
        "history": history,
        **{name: history[-1][name] for name in ("task_loss", "general_loss", "other_losses")},
        "forgetting": history[-1]["general_loss"] - base_loss(state),
        "spectra": measured(run, state),
        "checkpoints": [
            {"step": step, "spectra": compact(diagnosis(state.base, state.checkpoint(run.id, step)))}
            for step in run.saved
        ],
        "train_seconds": trained,
        "seconds": time.perf_counter() - started,
    }


def _train(run: Run, state: State, texts: Texts, pattern: Mapping[str, float]) -> tuple[list[dict[str, Any]], int]:
    """Train and store one run; return its losses at every look and the number of weights that were trained."""
    start = state.base if not run.after else merged_folder(run.after, state)
    torch.manual_seed(run.seed)
    model = methods.prepare(models.load(start, state.device), run, start, pattern)
    if not methods.starts_from_the_base(run):
        methods.save(model, state.initial(run.id))
    history = [{"step": 0, **losses(model, run, texts)}]

    def look(step: int) -> None:
        history.append({"step": step, **losses(model, run, texts)})
        if step in run.saved:
            methods.save(model, state.checkpoint(run.id, step))

    compiled = training.compiled_blocks(model) if state.device.type == "cuda" else nullcontext()
    with compiled:
        training.train(
            model,
            texts.train(run.task),
            context=state.plan.context,
            steps=run.steps,
            batch=run.batch,
            learning_rate=run.learning_rate,
            seed=ORDER_SEED + run.seed,
            look_at=state.plan.looks,
            look=look,
            after_step=methods.after_step(model, run),
        )
    methods.save(model, state.checkpoint(run.id))
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    if run.after:
        models.save(methods.merged(model), state.checkpoint(run.id) / "merged")
    return history, trained


def losses(model: torch.nn.Module, run: Run, texts: Texts) -> dict[str, Any]:
    """Bits per byte on every held-out text."""
    found = {name: training.bits_per_byte(model, text) for name, text in texts.held_out.items()}
    others = {name: loss for name, loss in found.items() if name not in (run.task, texts.general)}
    return {"task_loss": found[run.task], "general_loss": found[texts.general], "other_losses": others}


def base_loss(state: State) -> float:
    """What the base loses on the text that it was trained on."""
    row = state.row("base", "base")
    if row is None:
        raise FileNotFoundError(f"{state.results / 'base.jsonl'} has no row of the base: pre-train first.")
    return float(row["losses"][state.plan.general])


def measured(run: Run, state: State) -> dict[str, Any]:
    """spectra's numbers of a finished run. A run after another is compared with the base, not with its start."""
    folder = state.checkpoint(run.id)
    tuned = folder / "merged" if run.after else folder
    initial = None if methods.starts_from_the_base(run) else state.initial(run.id)
    return compact(diagnosis(state.base, tuned, initial))


def merged_folder(run: str, state: State) -> Path:
    """The folder of a finished run with its update merged, made when it is first asked for."""
    final = state.checkpoint(run)
    if not (final / "adapter_config.json").exists():
        return final
    folder = final.parent / "merged"
    if not (folder / "config.json").exists():
        model = models.load(state.base, torch.device("cpu"))
        with spectra.open_pairs(state.base, final) as pairs, torch.no_grad():
            for pair in pairs:
                model.get_parameter(pair.key).add_(pair.to_stored(pair.update.dense()))
        aside = folder.with_name(f"merged.{os.getpid()}")
        models.save(model, aside)
        aside.rename(folder)
    return folder


def alpha_pattern(run: Run, state: State) -> Mapping[str, float]:
    """The alphas that keep every module of the pilot a tenth below its first intruder, {} for a run without pilot."""
    if not run.budget_of:
        return {}
    return spectra.sweep(
        state.base, state.checkpoint(run.budget_of), scales=FINE, include=[models.BLOCKS], device="cpu"
    ).alpha_pattern(margin=BUDGET_MARGIN)


def _described(pattern: Mapping[str, float], run: Run) -> dict[str, float] | None:
    if not pattern:
        return None
    values = sorted(pattern.values())
    lowered = sum(value < (run.alpha or 0.0) for value in values)
    return {"modules": len(values), "lowered": lowered, "least": values[0], "median": values[len(values) // 2]}
