"""The summary as a page of text that can be read in a terminal and on the web."""

from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.study.correlation import CONTROLS
from spectra.text import show

Row = dict[str, Any]


def text(summary: Row) -> str:
    """Markdown: what was trained, the main curve, what goes with forgetting, the interventions, sequences, budgets."""
    parts = [
        _base(summary),
        _curve(summary["curve"]),
        _correlations(summary["correlations"], summary["diverged"]),
        _matched(summary["matched"]),
        _interventions(summary["interventions"]),
        _sequences(summary["sequences"]),
        _budget(summary["budget"]),
        _law(summary["law"]),
        _missing(summary["runs"]),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(value) for value in line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return f"{_cell(value['mean'])} [{_cell(value['least'])}, {_cell(value['most'])}]"
    return f"{value:.4g}" if isinstance(value, float) else show(str(value))


def _base(summary: Row) -> str:
    base, runs = summary["base"], summary["runs"]
    losses = ", ".join(f"{name} {loss:.3f}" for name, loss in base["losses"].items())
    return (
        f"## Base and runs\n\n{base['parameters']:,} parameters ({base['in_blocks']:,} in the blocks); held-out bits "
        f"per byte: {losses}. {runs['ok']} of {runs['planned']} planned runs are there, {len(runs['failed'])} failed."
    )


def _curve(rows: Sequence[Row]) -> str:
    order = sorted(
        rows, key=lambda row: (row["task"], row["method"], row["learning_rate"], row["rank"] or 0, row["alpha"] or 0)
    )
    head = [
        "task",
        "method",
        "r",
        "alpha",
        "rate",
        "seeds",
        "task loss",
        "forgetting",
        "intruders",
        "energy share",
        "rank of dW",
        "size of dW",
    ]
    cells = [
        [
            row["task"],
            row["method"],
            row["rank"],
            row["alpha"],
            row["learning_rate"],
            len(row["seeds"]),
            row["task_loss"],
            row["forgetting"],
            row["intruders"],
            row["energy_share"]["mean"],
            row["effective_rank"]["mean"],
            row["update_over_base"]["mean"],
        ]
        for row in order
    ]
    return "## Every configuration\n\nMean [least, most] over seeds; losses in bits per byte.\n\n" + table(head, cells)


def _correlations(strata: Row, diverged: Sequence[str]) -> str:
    if not strata:
        return ""
    parts = [
        "## What goes with forgetting",
        "Spearman's rho [95 % of draws of whole configurations]; wins: the share of draws in which it is the largest.",
    ]
    if diverged:
        parts.append(
            "Without the runs that were worse at their task than the base at some look: "
            + ", ".join(map(show, diverged))
            + "."
        )
    for name, found in strata.items():
        cells = [
            [
                predictor,
                _with_interval(one.get("rho"), one.get("interval")),
                *(
                    _with_interval(one.get(f"given_{control}"), one.get(f"given_{control}_interval"))
                    for control in CONTROLS
                ),
                one.get("wins"),
                one["n"],
            ]
            for predictor, one in found.items()
        ]
        parts.append(
            f"### {show(name)}\n\n"
            + table(
                ["predictor", "rho", "at equal update norm", "at equal task loss", "at both equal", "wins", "runs"],
                cells,
            )
        )
    return "\n\n".join(parts)


def _with_interval(value: float | None, interval: Sequence[float] | None) -> str | None:
    if value is None:
        return None
    return f"{value:+.2f}" + (f" [{interval[0]:+.2f}, {interval[1]:+.2f}]" if interval else "")


def _matched(rows: Sequence[Row]) -> str:
    """Full fine-tuning's general loss minus LoRA's, both at the task loss that LoRA ended at."""
    if not rows:
        return ""
    rates = list(rows[0]["full_minus_lora"])
    cells = [
        [*(row[name] for name in ("task", "rank", "alpha", "learning_rate", "task_loss", "forgetting"))]
        + [row["full_minus_lora"][rate] for rate in rates]
        for row in sorted(
            rows, key=lambda row: (row["task"], row["learning_rate"], row["alpha"] != 2 * row["rank"], row["rank"])
        )
    ]
    head = ["task", "r", "alpha", "rate", "task loss", "forgetting", *(f"full at {rate}" for rate in rates)]
    said = (
        "Full fine-tuning's general loss minus LoRA's when it had LoRA's task loss, same seed; below 0: it forgot less."
    )
    return f"## At equal task loss\n\n{said}\n\n" + table(head, cells)


def _interventions(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    parts = [
        "## Scaling intruders",
        "Change of the losses in bits per byte against the model as trained, mean over seeds: task / general.",
    ]
    for row in rows:
        scales = sorted({one["scale"] for one in row["scaled"]})
        kinds = list(dict.fromkeys(one["kind"] for one in row["scaled"]))
        at = {(one["kind"], one["scale"]): one for one in row["scaled"]}
        cells = [[kind, *(_change(at.get((kind, scale))) for scale in scales)] for kind in kinds]
        rank = f" r = {row['rank']}" if row["rank"] else ""
        head = f"### {row['task']}, {row['method']}{rank}, rate {row['learning_rate']:g}"
        parts.append(
            f"{head}: {row['intruders']['mean']:.1f} intruders\n\n" + table(["scaled", *map(str, scales)], cells)
        )
    return "\n\n".join(parts)


def _change(one: Row | None) -> str | None:
    return None if one is None else f"{one['task_change']['mean']:+.4f} / {one['general_change']['mean']:+.4f}"


def _sequences(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    texts = list(next(iter(rows[0]["stages"].values()))["losses"])
    cells = [
        [
            row["method"],
            row["rank"],
            stage,
            *(found["losses"][name]["mean"] for name in texts),
            found["intruders"]["mean"],
            found["update_over_base"]["mean"],
        ]
        for row in rows
        for stage, found in row["stages"].items()
    ]
    return "## Two tasks in one model\n\n" + table(["method", "r", "stage", *texts, "intruders", "size of dW"], cells)


def _budget(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    cells = [
        [
            row["rank"],
            row["seed"],
            *(row[which][name] for which in ("pilot", "budgeted") for name in ("task_loss", "forgetting", "intruders")),
            row["pilot_general_at_equal_task_loss"],
            row["budgeted_general"],
        ]
        for row in rows
    ]
    head = [
        "r",
        "seed",
        "pilot: task",
        "forgetting",
        "intruders",
        "budget: task",
        "forgetting",
        "intruders",
        "pilot's general loss at that task loss",
        "the budget's",
    ]
    return "## Spike budget before training\n\n" + table(head, cells)


def _law(law: Row) -> str:
    if not law["matrices"]:
        return ""
    return (
        f"## The threshold law\n\nWithin a factor of 2 for {law['within_twice']:.0%} of {law['matrices']} matrices; "
        f"median {law['median_ratio']:.2f} x exact."
    )


def _missing(runs: Row) -> str:
    lines = [f"- failed: {show(one['id'])}: {show(one['reason'])}" for one in runs["failed"]]
    lines += [f"- not run: {show(name)}" for name in runs["missing"]]
    return "## What is missing\n\n" + ("\n".join(lines) if lines else "Nothing: every planned run is there.")
