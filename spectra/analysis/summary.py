"""The few numbers a person reads first, from the rows of one model."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from typing import Any

from spectra.analysis.correlation import correlation
from spectra.loaders.plan import TunedInfo
from spectra.metrics.layer import Layer
from spectra.metrics.status import FAILURES, ZERO


def summarise(layers: Sequence[Layer], info: TunedInfo, base_parameters: int, base_bytes: int) -> dict[str, Any]:
    """Return counts, intruders by block and module, medians of rank and size, and what is stored."""
    ok = [layer for layer in layers if layer.ok]
    sides = [side for layer in ok for side in layer.intruders]
    ranks = [layer.rank for layer in ok if layer.rank is not None]
    norms = [layer.norm for layer in ok if layer.norm is not None]
    changed = sum(norm.update**2 for norm in norms) ** 0.5
    return {
        "method": info.method,
        "matrices": len(layers),
        "measured": len(ok),
        "zero_updates": sum(layer.status == ZERO for layer in layers),
        "failed": sum(layer.status in FAILURES for layer in layers),
        "examined": sum(layer.examined for layer in ok),
        "intruders": sum(side.count for side in sides),
        "degenerate": sum(side.degenerate for side in sides),
        "rotated": sum(side.rotated for side in sides),
        "new": sum(side.new for side in sides),
        "matrices_with_intruders": sum(layer.found > 0 for layer in ok),
        "by_block": _totals(ok, lambda layer: layer.place.block),
        "by_module": _totals(ok, lambda layer: layer.place.module),
        "effective_rank": _middle(rank.effective for rank in ranks),
        "stable_rank": _middle(rank.stable for rank in ranks),
        "energy_90": _middle(rank.energy_90 for rank in ranks),
        "above_floor": _middle(rank.above_floor for rank in ranks if rank.above_floor is not None),
        "allotted_ranks": sorted({rank.allotted for rank in ranks if rank.allotted}) or list(info.ranks),
        "utilisation": _middle(rank.utilisation for rank in ranks if rank.utilisation is not None),
        "update_ratio": _middle(norm.ratio for norm in norms),
        "update_ratio_largest": max((norm.ratio for norm in norms), default=None),
        "update_norm": changed,
        "base_norm": sum(layer.norm.base**2 for layer in layers if layer.norm is not None) ** 0.5,
        "energy_share": _energy_share(ok),
        "magnitude_direction": _magnitude_direction(ok),
        "parameters": {
            "base": base_parameters,
            "tuned": info.parameters,
            "share": info.parameters / base_parameters if base_parameters else None,
        },
        "bytes": {"base": base_bytes, "tuned": info.bytes},
    }


def _totals(layers: Sequence[Layer], of: Callable[[Layer], Any]) -> list[dict[str, Any]]:
    """Intruders and vectors examined by group, in the order the groups appear (blocks ascending)."""
    groups: dict[Any, list[int]] = {}
    for layer in layers:
        total = groups.setdefault(of(layer), [0, 0, 0])
        total[0] += layer.found
        total[1] += layer.examined
        total[2] += 1
    rows = [
        {"name": name, "intruders": found, "examined": examined, "matrices": matrices}
        for name, (found, examined, matrices) in groups.items()
    ]
    if all(isinstance(row["name"], int | None) for row in rows):
        rows.sort(key=lambda row: (row["name"] is None, row["name"] or 0))
    return rows


def _middle(values: Iterable[float]) -> float | None:
    known = list(values)
    return float(statistics.median(known)) if known else None


def _energy_share(layers: Sequence[Layer]) -> float | None:
    """Share of all update energy that lies on intruders: the rows' shares weighted by their energy."""
    pairs = [
        (side.energy_share, layer.norm.update**2) for layer in layers if layer.norm for side in layer.intruders[:1]
    ]
    whole = sum(weight for _, weight in pairs)
    return sum(share * weight for share, weight in pairs) / whole if whole else None


def _magnitude_direction(layers: Sequence[Layer]) -> dict[str, Any]:
    """Correlate over the matrices how far rows turned with how much they lengthened (DoRA, section 4.1).

    absolute : with dM, as published: matrices of long rows weigh more. relative : with dM over the mean row norm,
    which no scale of a matrix changes.
    """
    found = [layer.magnitude for layer in layers if layer.magnitude is not None]
    turned = [row.dD for row in found]
    each = {
        "absolute": correlation([row.dM for row in found], turned),
        "relative": correlation([row.relative for row in found], turned),
    }
    return {name: asdict(one) if one else None for name, one in each.items()}
