"""Which number of a run goes with forgetting: rank correlations, with intervals from resampled configurations."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy
from scipy.stats import rankdata

LEVEL = 0.95
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


def partial(x: numpy.ndarray, y: numpy.ndarray, given: numpy.ndarray) -> float | None:
    """The correlation of the ranks of x and y with the ranks of a third number held fixed: `(xy - xg yg) /
    sqrt((1 - xg^2)(1 - yg^2))`. None where it cannot be had."""
    xy, xg, yg = spearman(x, y), spearman(x, given), spearman(y, given)
    if xy is None or xg is None or yg is None or min(1 - xg**2, 1 - yg**2) < 1e-9:
        return None
    return float((xy - xg * yg) / ((1 - xg**2) * (1 - yg**2)) ** 0.5)


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
    the same with the update's norm held fixed, and the share of draws in which its |rho| is the largest: how sure it is
    that it wins. A predictor that some run lacks is correlated over the others, and left out of the contest.
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
        given = numpy.asarray([PREDICTORS["update norm"](row) for row in kept], dtype=float)
        found[name] = {
            "rho": spearman(x, y),
            "interval": _interval([spearman(x[at], y[at]) for at in _draws(kept, draws, seed)]),
            "n": len(kept),
            "configurations": len({configuration(row) for row in kept}),
            "given_update_norm": None if name == "update norm" else partial(x, y, given),
            "given_update_norm_interval": None
            if name == "update norm"
            else _interval([partial(x[at], y[at], given[at]) for at in _draws(kept, draws, seed)]),
        }
        if len(kept) == len(rows) and found[name]["rho"] is not None:
            complete[name] = x
    if complete:
        wins = _wins(complete, numpy.asarray([row["forgetting"] for row in rows]), _draws(rows, draws, seed))
        for name, share in wins.items():
            found[name]["wins"] = share
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
