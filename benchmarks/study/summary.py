"""The study's answers in one file: every number that a reader is told, from the tables alone."""

import itertools
import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.study.correlation import configuration, correlations
from benchmarks.study.intervene import UPDATE
from benchmarks.study.runs import FULL, LORA, Plan, grid
from benchmarks.study.state import State, rounded

Row = dict[str, Any]
FEWEST = 4


def summary(state: State) -> Row:
    """Every table of the study reduced to what a report says, each with its number of runs.

    diverged : runs that were worse at their own task than the base at some look. They stay in the curve, but are no
    fine-tunes whose forgetting could be explained: the correlations are without them.
    """
    plan = state.plan
    rows = [row for row in state.rows("runs") if row["status"] == "ok"]
    critical = {row["id"]: row["critical_median"] for row in state.rows("phases") if row["status"] == "ok"}
    for row in rows:
        row["critical_median"] = critical.get(row["id"])
    alone = [row for row in rows if not row["after"] and not row["budget_of"]]
    learnt = [row for row in alone if not _diverged(row)]
    return rounded(
        {
            "base": state.row("base", "base"),
            "runs": _counted(state, plan),
            "curve": [_averaged(group) for group in _grouped(alone, configuration)],
            "diverged": sorted({row["id"] for row in alone} - {row["id"] for row in learnt}),
            "correlations": _strata(learnt, plan),
            "matched": [
                found for task in plan.tasks for found in _matched([row for row in alone if row["task"] == task], plan)
            ],
            "interventions": _interventions(state),
            "sequences": _sequences(state),
            "budget": _budgets(rows),
            "law": _law(state),
        }
    )


def _diverged(row: Row) -> bool:
    first, *later = (look["task_loss"] for look in row["history"])
    return max(later) > first


def _counted(state: State, plan: Plan) -> Row:
    rows = state.rows("runs")
    planned = [run.id for run in grid(plan)]
    there = {row["id"] for row in rows}
    return {
        "planned": len(planned),
        "ok": sum(row["status"] == "ok" for row in rows),
        "failed": [{"id": row["id"], "reason": row["reason"]} for row in rows if row["status"] != "ok"],
        "missing": [name for name in planned if name not in there],
    }


def _averaged(rows: Sequence[Row]) -> Row:
    """One configuration: the mean over its seeds of every number, and the least and largest."""
    first = rows[0]
    numbers: dict[str, Callable[[Row], float]] = {
        "task_loss": lambda row: row["task_loss"],
        "general_loss": lambda row: row["general_loss"],
        "forgetting": lambda row: row["forgetting"],
        "intruders": lambda row: row["spectra"]["counts"]["count"],
        "new": lambda row: row["spectra"]["counts"]["new"],
        "rotated": lambda row: row["spectra"]["counts"]["rotated"],
        "energy_share": lambda row: row["spectra"]["energy_share"],
        "effective_rank": lambda row: row["spectra"]["effective_rank"],
        "stable_rank": lambda row: row["spectra"]["stable_rank"],
        "update_over_base": lambda row: row["spectra"]["update_over_base"],
    }
    named = ("task", "method", "rank", "alpha", "learning_rate")
    return {
        **{name: first[name] for name in named},
        "seeds": sorted(row["seed"] for row in rows),
        "examined": first["spectra"]["examined"],
        **{name: spread([float(take(row)) for row in rows]) for name, take in numbers.items()},
    }


def spread(values: Sequence[float]) -> Row:
    return {"mean": statistics.fmean(values), "least": min(values), "most": max(values)}


def _grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> list[list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return list(groups.values())


def _strata(rows: Sequence[Row], plan: Plan) -> Row:
    """Forgetting against each predictor: all runs of a task, LoRA alone, and LoRA at one learning rate."""
    found = {}
    for task in plan.tasks:
        own = [row for row in rows if row["task"] == task]
        lora = [row for row in own if row["method"] == LORA]
        strata = {
            "all methods": own,
            "LoRA and full": [row for row in own if row["method"] in (LORA, FULL)],
            "LoRA": lora,
            "LoRA, alpha = 2r": [row for row in lora if row["alpha"] == 2 * row["rank"]],
            "full": [row for row in own if row["method"] == FULL],
            **{
                f"LoRA, rate {rate:g}": [row for row in lora if row["learning_rate"] == rate]
                for rate in plan.lora_rates
            },
        }
        seen: set[frozenset[str]] = set()
        for name, part in strata.items():
            ids = frozenset(row["id"] for row in part)
            if len(part) >= FEWEST and ids not in seen:  # where a stratum is all that another is, once is enough
                seen.add(ids)
                found[f"{task}: {name}"] = correlations(part, draws=plan.draws)
    return found


def _matched(rows: Sequence[Row], plan: Plan) -> list[Row]:
    """The LoRAs of one task beside full fine-tuning with the same seed when that had the same task loss.

    Full fine-tuning's forgetting is read off its path, between two looks on a straight line: at each of its learning
    rates, None where it was never there.
    """
    full = {(row["learning_rate"], row["seed"]): row for row in rows if row["method"] == FULL}
    lora = [row for row in rows if row["method"] == LORA]
    found = []
    for group in _grouped(lora, configuration):
        first = group[0]
        paths: dict[float, list[float | None]] = {}
        for row in group:
            for rate in plan.full_rates:
                other = full.get((rate, row["seed"]))
                loss = at_task_loss(other["history"], row["task_loss"]) if other else None
                paths.setdefault(rate, []).append(None if loss is None else loss - row["general_loss"])
        found.append(
            {
                **{name: first[name] for name in ("task", "rank", "alpha", "learning_rate")},
                "task_loss": spread([row["task_loss"] for row in group]),
                "forgetting": spread([row["forgetting"] for row in group]),
                "full_minus_lora": {
                    f"{rate:g}": spread([value for value in values if value is not None])
                    if None not in values
                    else None
                    for rate, values in paths.items()
                },
            }
        )
    return found


def _interventions(state: State) -> list[Row]:
    """For each rank, kind and scale: the change of both losses against the run as trained, over its seeds."""
    rows = [row for row in state.rows("interventions") if row["status"] == "ok"]
    found = []
    for group in _grouped(rows, configuration):
        changes: dict[tuple[str, float], list[tuple[float, float, float]]] = {}
        for row in group:
            trained = next(one for one in row["scaled"] if one["kind"] == UPDATE and one["scale"] == 1)
            for one in row["scaled"]:
                if one["task_loss"] is not None:
                    change = tuple(one[name] - trained[name] for name in ("task_loss", "general_loss"))
                    changes.setdefault((one["kind"], one["scale"]), []).append((*change, one["moved"]))
        first = group[0]
        found.append(
            {
                **{name: first[name] for name in ("task", "method", "rank", "alpha", "learning_rate")},
                "seeds": sorted(row["seed"] for row in group),
                "intruders": spread([row["intruders"] for row in group]),
                "scaled": [
                    {
                        "kind": kind,
                        "scale": scale,
                        "seeds": len(values),
                        "task_change": spread([value[0] for value in values]),
                        "general_change": spread([value[1] for value in values]),
                        "moved": statistics.fmean(value[2] for value in values),
                    }
                    for (kind, scale), values in changes.items()
                ],
            }
        )
    return found


def _sequences(state: State) -> list[Row]:
    rows = [row for row in state.rows("together") if row["status"] == "ok"]
    found = []
    for group in _grouped(rows, lambda row: (row["method"], row["rank"], row["alpha"])):
        stages = {}
        for name in group[0]["stages"]:
            parts = [row["stages"][name] for row in group]
            stages[name] = {
                "losses": {text: spread([part["losses"][text] for part in parts]) for text in parts[0]["losses"]},
                "intruders": spread([part["spectra"]["counts"]["count"] for part in parts]),
                "update_over_base": spread([part["spectra"]["update_over_base"] for part in parts]),
            }
        first = group[0]
        named = {name: first[name] for name in ("method", "rank", "alpha", "tasks")}
        found.append({**named, "seeds": sorted(row["seed"] for row in group), "stages": stages})
    return found


def _budgets(rows: Sequence[Row]) -> list[Row]:
    """Each run under a spike budget beside its pilot: at the end, and the pilot at the budgeted run's task loss."""
    known = {row["id"]: row for row in rows}
    found = []
    for row in rows:
        pilot = known.get(row["budget_of"])
        if pilot is None:
            continue
        found.append(
            {
                "id": row["id"],
                "rank": row["rank"],
                "seed": row["seed"],
                "alpha_pattern": row["alpha_pattern"],
                **{
                    name: {
                        "task_loss": one["task_loss"],
                        "forgetting": one["forgetting"],
                        "intruders": one["spectra"]["counts"]["count"],
                    }
                    for name, one in (("pilot", pilot), ("budgeted", row))
                },
                "pilot_general_at_equal_task_loss": at_task_loss(pilot["history"], row["task_loss"]),
                "budgeted_general": row["general_loss"],
            }
        )
    return found


def at_task_loss(history: Sequence[Row], task_loss: float) -> float | None:
    """The general loss of a run when it had that task loss, linear between the looks; None where it never had."""
    for before, after in itertools.pairwise(history):
        high, low = before["task_loss"], after["task_loss"]
        if high >= task_loss >= low and high > low:
            share = (high - task_loss) / (high - low)
            return float(before["general_loss"] + share * (after["general_loss"] - before["general_loss"]))
    return None


def _law(state: State) -> Row:
    """The threshold law against the exact critical scale, over every matrix of every run swept that has both."""
    ratios = [
        one["law"] / one["exact"]
        for row in state.rows("phases")
        if row["status"] == "ok"
        for one in row["critical"]
        if one["law"] is not None and one["exact"] is not None
    ]
    if not ratios:
        return {"matrices": 0}
    within = sum(0.5 <= ratio <= 2 for ratio in ratios) / len(ratios)
    return {"matrices": len(ratios), "within_twice": within, "median_ratio": statistics.median(ratios)}
