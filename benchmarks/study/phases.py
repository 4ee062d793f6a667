"""The scale at which each matrix of a run meets its first intruder, exactly and by the threshold law."""

import statistics
from typing import Any

import spectra
from benchmarks.study.model import BLOCKS
from benchmarks.study.prepare import Texts
from benchmarks.study.runs import Run
from benchmarks.study.state import State

FINE = tuple(round(0.1 * step, 1) for step in range(21))
SCALES = FINE[::2]
DENSE_SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)


def phases(run: Run, state: State, _texts: Texts) -> dict[str, Any]:
    """Follow one run's update from nothing to twice as trained.

    critical : of each matrix, None where there is none up to scale 2. The runs that are traced have the finest grid;
    a dense update costs one decomposition a scale, so full fine-tuning has the coarsest. critical_median,
    critical_least : over all matrices, None where the matrix in question has none.
    """
    scales = DENSE_SCALES if run.rank is None else FINE if run.saved else SCALES
    found = spectra.sweep(state.base, state.checkpoint(run.id), scales=scales, include=[BLOCKS], device="cpu")
    rows = found.measured
    ascending = sorted(row.critical if row.critical is not None else float("inf") for row in rows)
    return {
        **run.to_dict(),
        "status": "ok",
        "reason": "",
        "scales": list(found.scales),
        "totals": {kind: list(found.total(kind)) for kind in ("count", "degenerate", "rotated", "new")},
        "matrices": len(rows),
        "crossed": sum(row.critical is not None for row in rows),
        "critical_least": _finite(ascending[0]),
        "critical_median": _finite(statistics.median(ascending)),
        "law": found.summary["law"],
        "critical": [
            {
                "key": row.key,
                "exact": row.critical,
                "law": _finite(row.law.critical) if row.law else None,
                "re_enters": len(row.intervals) > 1,
            }
            for row in rows
        ],
    }


def _finite(value: float) -> float | None:
    return None if value == float("inf") else value
