"""Measure spectra against its peers: same matrices, same run, same verdicts.

    python benchmarks/engine.py --json engine.json --figure figures/engine
    python benchmarks/engine.py --device cuda --json engine-cuda.json
    python benchmarks/engine.py --quick

Every line runs in a process of its own, on matrices from one file. Lines under three seconds are warmed up once and
repeated: the median counts, and the least is given. Ratios are against the paper's method, two full
`torch.linalg.svd` and all cosines. Memory is the high-water mark of a run above what was loaded before it, as a
multiple of the matrix in float32. Passes say how often as many entries as the matrix has are read.

Verdicts (intruder or not, for each of the ten leading vectors) are held against the paper's method in float64 up to
1024 rows or columns (with --float64 at any size), above that against its own run in float32; a vector within 0.01
of epsilon is not judged. Any disagreement ends the run with exit code 1.

A peer that is not installed is left out and said so. WeightWatcher would move pinned packages, so put it elsewhere:
`pip install --target FOLDER --no-deps weightwatcher powerlaw scikit-learn joblib threadpoolctl cloudpickle`, then
PYTHONPATH=FOLDER.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cases
import fresh
import machine
import torch
from cases import EPSILON, LLAMA, ROBERTA, Case, K, Spec
from work import Answer, Setting, UnavailableError, Work

QUICK = ((512, 512),)
EDGE = 0.01  # distance from epsilon within which a verdict is rounding
FLOAT64_UP_TO = 1024
SCALES = 40
PAPER = "paper"
_TINY = Spec((96, 96), 0.5, 8)


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """A row of the table: its name in JSON, what a reader sees, the module and function that prepare it."""

    name: str
    label: str
    module: str
    maker: str

    def maker_of(self) -> Callable[[Case, Setting], Work]:
        maker: Callable[[Case, Setting], Work] = getattr(__import__(self.module), self.maker)
        return maker


LINES = (
    Line(PAPER, "paper: two SVDs, all cosines", "peers", "paper"),
    Line("peft", "PEFT reduce_intruder_dimension", "peers", "peft"),
    Line("weightwatcher", "WeightWatcher analyze", "peers", "weightwatcher"),
    Line("exact", "spectra exact", "ours", "exact"),
    Line("auto", "spectra auto", "ours", "auto"),
    Line("certified", "spectra certified", "ours", "whole"),
    Line("verdicts", "spectra certified, verdicts alone", "ours", "verdicts"),
    Line("batch", "spectra certified, batch", "ours", "batch"),
    Line("basis", "spectra basis, in memory", "ours", "known"),
    Line("cached", "spectra basis, from disk", "ours", "cached"),
    Line("curve", f"spectra phase curve, {SCALES} scales", "ours", "curve"),
    Line("adapters", "spectra basis, many adapters", "ours", "adapters"),
)


def main() -> int:
    options = _options()
    fresh.start()
    shapes = QUICK if options.quick else options.shapes or (*LLAMA, *ROBERTA)
    lines = [line for line in LINES if not options.lines or line.name in options.lines]
    about = machine.described(options.device)
    print(machine.in_words(about))
    found = []
    for spec in cases.listed(list(shapes), options.dtype, few=options.quick):
        with tempfile.TemporaryDirectory() as folder:
            setting = Setting(options.device, Path(folder), options.batch, options.adapters)
            found.append(_case(spec, lines, setting, options))
        print(_table(found[-1]), flush=True)
    agreement = _agreement(found)
    result = {"schema": 1, "machine": about, "k": K, "epsilon": EPSILON, "cases": found, "agreement": agreement}
    print(_verdict(agreement))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    if options.figure:
        import figure

        figure.draw([result], options.figure)
    return 1 if agreement["against"] or agreement["failed"] else 0


def _options() -> argparse.Namespace:
    words = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    words.add_argument(
        "--shapes", type=_shapes, help="such as 4096x4096,768x3072; default: Llama-2-7B's, RoBERTa-base's"
    )
    words.add_argument("--device", default="cpu", help="cpu or cuda")
    words.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="the base is rounded to it")
    words.add_argument("--quick", action="store_true", help="one small shape, to see that all of it runs")
    words.add_argument("--lines", type=lambda text: text.split(","), help=", ".join(line.name for line in LINES))
    words.add_argument("--repeats", type=int, default=5, help="runs of each line that takes under three seconds")
    words.add_argument("--pause", type=float, default=0.2, help="seconds between them")
    words.add_argument("--threads", type=int, help="of torch; default: its own choice")
    words.add_argument("--batch", type=int, help="matrices of the batched line; default 16 on CUDA, 2 on the CPU")
    words.add_argument("--adapters", type=int, help="of the line of many adapters; default 100 on CUDA, 20 on the CPU")
    words.add_argument("--float64", action="store_true", help="hold verdicts against float64 at every size")
    words.add_argument("--json", type=Path, help="write everything there")
    words.add_argument("--figure", type=Path, help="write FILE.png and FILE.svg")
    options = words.parse_args()
    cuda = options.device != "cpu"
    options.batch = options.batch or (16 if cuda else 2)
    options.adapters = options.adapters or (100 if cuda else 20)
    if unknown := set(options.lines or ()) - {line.name for line in LINES}:
        words.error(
            f"--lines: there is no {', '.join(sorted(unknown))}; choose among {', '.join(x.name for x in LINES)}"
        )
    if cuda and not torch.cuda.is_available():
        words.error(f"--device {options.device}: torch finds no CUDA device")
    if options.threads:
        torch.set_num_threads(options.threads)
    return options


def _shapes(text: str) -> list[tuple[int, int]]:
    try:
        return [(int(m), int(n)) for m, n in (shape.split("x") for shape in text.split(","))]
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a list of shapes such as 4096x4096,768x3072") from None


# ------------------------------------------------------------------------------------- one case


def _case(spec: Spec, lines: list[Line], setting: Setting, options: argparse.Namespace) -> dict[str, Any]:
    path, tiny = setting.folder / "case.safetensors", setting.folder / "tiny.safetensors"
    fresh.run(_make, spec, path)
    fresh.run(_make, dataclasses.replace(_TINY, rank=_TINY.rank if spec.rank else None), tiny)
    rows = [_row(line, _line, spec, setting, options, path, tiny) for line in lines]
    wide = options.float64 or max(spec.shape) <= FLOAT64_UP_TO
    reference = fresh.run(_reference, spec, path) if wide else _similarity(rows, PAPER)
    for row in rows:
        row["agrees"] = _agrees(row, reference)
        base = _median(rows, PAPER)
        row["ratio"] = base / row["median"] if base and row.get("median") else None
        if row["line"] == "curve" and row.get("median") and _median(rows, "basis"):
            row["single_answers"] = row["median"] / _median(rows, "basis")
            row["note"] += f"; as long as {row['single_answers']:.1f} single answers"
    return {
        "name": spec.name,
        "shape": list(spec.shape),
        "spectrum": spec.spectrum,
        "rank": spec.rank,
        "reference": {"precision": "float64" if wide else "float32", "similarity": reference},
        "intruders": None if reference is None else sum(value < EPSILON for value in reference),
        "margin": None if reference is None else min(abs(value - EPSILON) for value in reference),
        "lines": rows,
    }


def _make(spec: Spec, path: Path) -> None:
    cases.make(spec).save(path)


def _reference(spec: Spec, path: Path) -> list[float]:
    import peers

    return peers.in_float64(cases.load(spec, path))


def _line(
    line: Line, spec: Spec, setting: Setting, options: argparse.Namespace, path: Path, tiny: Path
) -> dict[str, Any]:
    """Prepare a line, warm it up on a small matrix, and measure it: in its own process."""
    if options.threads:
        torch.set_num_threads(options.threads)
    maker = line.maker_of()
    try:
        with tempfile.TemporaryDirectory() as folder:
            small = dataclasses.replace(setting, folder=Path(folder), batch=1, adapters=2)
            maker(cases.load(_TINY, tiny), small).run()
        work = maker(cases.load(spec, path), setting)
        cost, raw = fresh.cost(work.run, device=setting.device, repeats=options.repeats, pause=options.pause)
        answer: Answer = work.read(raw)
    except UnavailableError as reason:
        return {"skipped": str(reason)}
    m, n = spec.shape
    return {
        "median": cost.median / work.per,
        "least": min(cost.times) / work.per,
        "runs": len(cost.times),
        "per": work.per,
        "memory_bytes": cost.memory,
        "memory": None if cost.memory is None else cost.memory / (4 * m * n),
        **dataclasses.asdict(answer),
    }


def _row(line: Line, measure: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    try:
        found = fresh.run(measure, line, *arguments)
    except RuntimeError as fault:  # its traceback is on stderr
        found = {"failed": str(fault)}
    label = line.label + (f" of {found['per']}" if found.get("per", 1) > 1 else "")
    return {"line": line.name, "label": label, **found}


def _find(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next((row for row in rows if row["line"] == name), {})


def _median(rows: list[dict[str, Any]], name: str) -> float | None:
    return _find(rows, name).get("median")


def _similarity(rows: list[dict[str, Any]], name: str) -> list[float] | None:
    return list(_find(rows, name).get("similarity", ())) or None


def _agrees(row: dict[str, Any], reference: list[float] | None) -> bool | None:
    """Whether a line says what the reference says, of each vector it is sure of, or in all; None if it says nothing."""
    if reference is None or "median" not in row:
        return None
    clear = [abs(value - EPSILON) > EDGE for value in reference]
    truth = [value < EPSILON for value in reference]
    if row["intruder"]:
        judged = [said is truth[at] for at, said in enumerate(row["intruder"]) if said is not None and clear[at]]
        return all(judged) if judged else None
    return None if row["count"] is None or not all(clear) else row["count"] == sum(truth)


def _agreement(found: list[dict[str, Any]]) -> dict[str, Any]:
    rows = [(case["name"], row) for case in found for row in case["lines"]]
    judged = [(name, row) for name, row in rows if row["agrees"] is not None]
    return {
        "judged": len(judged),
        "against": [f"{name}: {row['label']}" for name, row in judged if not row["agrees"]],
        "open": sum(verdict is None for _, row in rows for verdict in row.get("intruder", ())),
        "failed": [f"{name}: {row['label']}" for name, row in rows if row.get("failed")],
    }


# ------------------------------------------------------------------------------------- what is printed


def _table(case: dict[str, Any]) -> str:
    reference = case["reference"]
    truth = "no reference" if case["intruders"] is None else (
        f"{case['intruders']} of {len(reference['similarity'])} are intruders ({reference['precision']}, margin "
        f"{case['margin']:.2f})"
    )  # fmt: skip
    lines = ["", f"{case['name']}: {truth}"]
    lines.append(f"  {'':37}{'median':>10}{'least':>10}{'ratio':>8}{'memory':>8}{'passes':>8}  intruders")
    return "\n".join(lines + [_printed(row) for row in case["lines"]])


def _printed(row: dict[str, Any]) -> str:
    if "median" not in row:
        reason = f"left out: {row['skipped']}" if "skipped" in row else f"FAILED: {row['failed']}"
        return f"  {row['label']:37}{reason}"
    memory = "-" if row["memory"] is None else f"{row['memory']:.1f}x"
    passes = (
        "-" if row["passes"] is None else f"{row['passes']:,.0f}" if row["passes"] >= 10 else f"{row['passes']:.1f}"
    )
    ratio = "-" if row["ratio"] is None else f"{row['ratio']:,.1f}x" if row["ratio"] < 10 else f"{row['ratio']:,.0f}x"
    times = f"{_seconds(row['median']):>10}{_seconds(row['least']):>10}"
    return f"  {row['label']:37}{times}{ratio:>8}{memory:>8}{passes:>8}  {_counted(row)}{_note(row)}"


def _counted(row: dict[str, Any]) -> str:
    judged = {True: "agrees", False: "DISAGREES", None: ""}[row["agrees"]]
    if row["intruder"]:
        open_ = sum(verdict is None for verdict in row["intruder"])
        return f"{sum(bool(verdict) for verdict in row['intruder'])} {judged}" + (f", {open_} open" if open_ else "")
    return "-" if row["count"] is None else f"{row['count']} {judged}"


def _note(row: dict[str, Any]) -> str:
    return f"; {row['note']}" if row["note"] else ""


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.1f} ms" if value >= 1e-2 else f"{1000 * value:.2f} ms"


def _verdict(agreement: dict[str, Any]) -> str:
    said = f"\n{agreement['judged']} lines judged, {len(agreement['against'])} against the reference"
    said += f", {agreement['open']} vectors left open"
    return "\n  ".join([said, *agreement["against"], *(f"failed: {line}" for line in agreement["failed"])])


if __name__ == "__main__":
    sys.exit(main())
