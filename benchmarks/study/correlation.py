"""Which number of a run goes with forgetting: rank correlations, with intervals from resampled configurations."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy
from scipy.stats import rankdata

LEVEL = 0.95
CONTROLS = {"update_norm": ("update norm",), "task_loss": ("task loss",), "both": ("update norm", "task loss")}
Predictor = Callable[[dict[str, Any]], float | None]

PREDICTORS: dict[str, Predictor] = {
    "intruders": lambda row: float(row["spectra"]["counts"]["count"]),
    "new intruders": lambda row: float(row["spectra"]["counts"]["new"]),
    "energy share of intruders": lambda row: row["spectra"]["energy_share"],
    "update norm": lambda row: row["spectra"]["update_over_base"],
    "largest value of the update": lambda row: row["spectra"]["spectral_ratio"],
    "effective rank": lambda row: row["spectra"]["effective_rank"],
    "least similarity": lambda row: row["spectra"]["least_similarity"],
    "task loss": lambda row: row["task_loss"],
    "critical scale": lambda row: row.get("critical_median"),
}


def spearman(x: numpy.ndarray, y: numpy.ndarray) -> float | None:
    """The correlation of ranks, ties at their mean rank. None where one side does not vary."""
    return _pearson(rankdata(x), rankdata(y))


def partial(x: numpy.ndarray, y: numpy.ndarray, *given: numpy.ndarray) -> float | None:
    """The correlation of what is left of the ranks of x and y when those of other numbers are regressed out of both.

    None where these determine x or y.
    """
    design = numpy.stack([numpy.ones(len(x)), *map(rankdata, given)], axis=1)
    left = []
    for ranks in (rankdata(x), rankdata(y)):
        rest = ranks - design @ numpy.linalg.lstsq(design, ranks, rcond=None)[0]
        if rest @ rest < 1e-9 * ((ranks - ranks.mean()) @ (ranks - ranks.mean())):
            return None
        left.append(rest)
    return _pearson(*left)


def _pearson(x: numpy.ndarray, y: numpy.ndarray) -> float | None:
    if len(x) < 3 or x.std() == 0 or y.std() == 0:
        return None
    return float(numpy.corrcoef(x, y)[0, 1])


def configuration(row: dict[str, Any]) -> tuple[Any, ...]:
    """What a run shares with the runs of other seeds: resampled together, so that seeds do not count as evidence."""
    return tuple(row[name] for name in ("task", "method", "rank", "alpha", "learning_rate"))


def correlations(
    rows: Sequence[dict[str, Any]], *, draws: int, names: Sequence[str] = tuple(PREDICTORS), seed: int = 0
) -> dict[str, Any]:
    """Rank correlation of each predictor with forgetting over a set of runs.

    Returns, for each: rho, its bootstrap interval (whole configurations drawn with replacement, `draws` times), n,
    the same with the update's norm, the task loss and both held fixed (None for these themselves), and the share of
    draws in which its |rho| is the largest: how sure it is that it wins. A predictor that some run lacks is correlated
    over the others, and left out of the contest.
    """
    found: dict[str, Any] = {}
    complete = {}
    for name in names:
        kept = [row for row in rows if PREDICTORS[name](row) is not None]
        if len(kept) < 4:
            found[name] = {"rho": None, "n": len(kept), "reason": "fewer than four runs have it"}
            continue
        x = numpy.asarray([PREDICTORS[name](row) for row in kept], dtype=float)
        y = numpy.asarray([row["forgetting"] for row in kept])
        drawn = _draws(kept, draws, seed)
        found[name] = {
            "rho": spearman(x, y),
            "interval": _interval([spearman(x[at], y[at]) for at in drawn]),
            "n": len(kept),
            "configurations": len({configuration(row) for row in kept}),
            **_controlled(name, x, y, kept, drawn),
        }
        if len(kept) == len(rows) and found[name]["rho"] is not None:
            complete[name] = x
    if complete:
        wins = _wins(complete, numpy.asarray([row["forgetting"] for row in rows]), _draws(rows, draws, seed))
        for name, share in wins.items():
            found[name]["wins"] = share
    return found


def _controlled(
    name: str, x: numpy.ndarray, y: numpy.ndarray, rows: Sequence[dict[str, Any]], draws: Sequence[numpy.ndarray]
) -> dict[str, Any]:
    """The partial correlations of one predictor under every control, with their intervals."""
    found: dict[str, Any] = {}
    for control, names in CONTROLS.items():
        if name in names:
            found |= {f"given_{control}": None, f"given_{control}_interval": None}
            continue
        given = [numpy.asarray([PREDICTORS[other](row) for row in rows], dtype=float) for other in names]
        found[f"given_{control}"] = partial(x, y, *given)
        found[f"given_{control}_interval"] = _interval(
            [partial(x[at], y[at], *(one[at] for one in given)) for at in draws]
        )
    return found


def _draws(rows: Sequence[dict[str, Any]], count: int, seed: int) -> list[numpy.ndarray]:
    clusters: dict[tuple[Any, ...], list[int]] = {}
    for at, row in enumerate(rows):
        clusters.setdefault(configuration(row), []).append(at)
    groups = list(clusters.values())
    draw = numpy.random.default_rng(seed)
    return [
        numpy.concatenate([groups[at] for at in draw.integers(len(groups), size=len(groups))]) for _ in range(count)
    ]


def _interval(values: Sequence[float | None]) -> list[float] | None:
    """The middle 95 % of the draws, None where most of them have no correlation."""
    kept = [value for value in values if value is not None]
    if len(kept) < len(values) / 2:
        return None
    return [float(end) for end in numpy.quantile(kept, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])]


def _wins(values: dict[str, numpy.ndarray], y: numpy.ndarray, draws: Sequence[numpy.ndarray]) -> dict[str, float]:
    won = dict.fromkeys(values, 0)
    for at in draws:
        strength = {name: abs(spearman(x[at], y[at]) or 0.0) for name, x in values.items()}
        won[max(strength, key=lambda name: strength[name])] += 1
    return {name: count / len(draws) for name, count in won.items()}
