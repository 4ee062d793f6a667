"""Train and measure the study: `python -m benchmarks.study`.

    python -m benchmarks.study --smoke --folder smoke
    python -m benchmarks.study --folder STATE --results RESULTS --wikipedia enwik8.gz --mathematics gsm8k
    python -m benchmarks.study --plan demo --folder DEMO --ship spectra/demo

The stages follow each other and each goes on where it was: texts, base, runs, then what is asked of finished runs
(phase curves, single matrices, interventions, two tasks in one model), then the summary. Nothing is trained or measured
twice. `--minutes` ends a call early, the next one continues. README.md beside this says what the results hold.
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything is local: nothing is looked up
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
import transformers

from benchmarks.study import given, report, summary, texts, vocabulary
from benchmarks.study.details import details
from benchmarks.study.environment import environment
from benchmarks.study.finetune import finetune
from benchmarks.study.intervene import intervene
from benchmarks.study.model import SIZES
from benchmarks.study.phases import phases
from benchmarks.study.prepare import INDEX, mixed, prepare
from benchmarks.study.pretrain import pretrain
from benchmarks.study.runs import LORA, PLANS, Plan, Run, grid, waves
from benchmarks.study.state import State
from benchmarks.study.together import sequences, together
from benchmarks.study.trio.ship import ship
from benchmarks.study.workers import work
from spectra.errors import InputError
from spectra.text import show

STAGES = ("texts", "base", "runs", "phases", "details", "interventions", "together", "summary")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--folder", type=Path, required=True, help="where the large files are kept: texts, base, checkpoints")
    add("--results", type=Path, help="where the small ones go (FOLDER/results)")
    add("--plan", choices=sorted(PLANS), default="study", help="the grid of runs (%(default)s)")
    add("--smoke", action="store_true", help="the whole chain in minutes on a CPU: --plan smoke with texts at hand")
    add("--wikipedia", type=Path, help="enwik8, plain or gzipped")
    add("--mathematics", type=Path, help="folder of GSM8K: train.jsonl and test.jsonl")
    add("--gguf", type=Path, help="a model to fine-tune as it is, with --plan real, instead of training a base")
    add("--stage", action="append", choices=STAGES, help="only this stage; may be given again")
    add("--workers", type=int, default=1, help="runs side by side (%(default)s)")
    add("--minutes", type=float, default=1e6, help="begin nothing new after this long")
    add("--ship", type=Path, metavar="FOLDER", help="write there what `spectra demo` ships; no --stage but those given")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    options.plan = "smoke" if options.smoke else options.plan
    options.results = options.results or options.folder / "results"
    options.stage = options.stage or ([] if options.ship else STAGES)
    return options


def prepare_texts(options: argparse.Namespace, plan: Plan) -> None:
    """Tokenise the texts that a plan names, once."""
    folder = options.folder / "texts"
    if (folder / INDEX).exists():
        return
    makers: dict[str, Callable[[], texts.Text]] = {
        "documentation": texts.documentation,
        "sums": texts.sums,
        "python": lambda: texts.python_source(most=600_000 if options.smoke else None),
        "wikipedia": lambda: texts.wikipedia(needed(options, "wikipedia")),
        "mathematics": lambda: texts.mathematics(needed(options, "mathematics")),
    }
    general, *tasks = [makers[name]() for name in (plan.general, *plan.tasks)]
    if options.gguf is None:
        prepare(folder, general, tasks, vocabulary.train_vocabulary(mixed(general, tasks), SIZES[plan.size].vocabulary))
    else:
        prepare(folder, replace(general, train=b""), tasks, given.tokenizer(options.gguf))


def needed(options: argparse.Namespace, name: str) -> Path:
    """The path of a text that does not come with Python. Ends the program where it is not given."""
    path: Path | None = getattr(options, name)
    if path is None or not path.exists():
        where = f"'{show(str(path))}' does not exist" if path else f"--{name} is not given"
        raise SystemExit(f"the study needs the text '{name}', and {where}: README.md says where it is had.")
    return path


def chosen(plan: Plan, state: State) -> dict[str, list[tuple[str, Run]]]:
    """Which finished runs each later stage looks at."""
    done = {row["id"] for row in state.rows("runs") if row["status"] == "ok"}
    runs = [run for run in grid(plan) if run.id in done and not run.after and run.task == plan.tasks[0]]
    main = [run for run in runs if plan.is_main(run)]
    found = {
        "phases": [run for run in runs if run.method == LORA or (run in main and run.seed == 0)],
        "details": [run for run in main if run.saved],
        "interventions": [run for run in main if run.rank in plan.intervened],
    }
    return {stage: [(run.id, run) for run in part] for stage, part in found.items()}


def train_runs(plan: Plan, state: State, workers: int, until: float) -> None:
    """Both waves: what needs no other run, then what does."""
    for wave in waves(grid(plan)):
        ready = {row["id"] for row in state.rows("runs") if row["status"] == "ok"}
        tasks = [(run.id, run) for run in wave if not run.parent or run.parent in ready]
        undone = work(state, "runs", finetune, tasks, workers=workers, until=until)
        if undone:
            print(f"runs: the time is up, {undone} left", flush=True)
            return


def summarise(state: State) -> None:
    found = summary.summary(state)
    page = report.text(found)
    (state.results / "summary.json").write_text(json.dumps(found, indent=1, allow_nan=False) + "\n")
    (state.results / "report.md").write_text(page)
    print(page)


def ship_trio(state: State, options: argparse.Namespace) -> None:
    try:
        record = ship(state, options.plan, options.ship)
    except InputError as refused:
        raise SystemExit(str(refused)) from None
    print(f"shipped in {show(options.ship)}:", {name: record[name]["intruders"]["count"] for name in record["models"]})


def main() -> None:
    options = parse_options()
    started, plan = time.time(), PLANS[options.plan]
    until = started + 60 * options.minutes
    stages = [*options.stage, *(["ship"] if options.ship else [])]
    transformers.utils.logging.disable_progress_bar()
    if "texts" in stages:
        prepare_texts(options, plan)
    state = State(options.folder, options.results, plan, options.device)
    if "base" in stages:
        if options.gguf is not None and not (state.base / "config.json").exists():
            given.unpack(options.gguf, state.base)
        pretrain(state, compiled=state.device.type == "cuda")
    if "runs" in stages:
        train_runs(plan, state, options.workers, until)
    later = chosen(plan, state)
    for stage, job in (("phases", phases), ("details", details), ("interventions", intervene)):
        if stage in stages:
            work(state, stage, job, later[stage], workers=options.workers, until=until)
    if "together" in stages:
        ready = {row["id"] for row in state.rows("runs") if row["status"] == "ok"}
        pairs = [(found.id, found) for found in sequences(plan) if {found.first.id, found.second.id, found.id} <= ready]
        work(state, "together", together, pairs, workers=options.workers, until=until)
    if "summary" in stages:
        summarise(state)
    if "ship" in stages:
        ship_trio(state, options)
    state.append(
        "log",
        {"id": f"{started:.0f}", "stages": list(stages), "seconds": time.time() - started, **environment(state.device)},
    )


if __name__ == "__main__":
    main()
