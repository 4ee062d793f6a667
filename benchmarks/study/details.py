"""The matrices of a few runs one by one, for the figures: arrays in one small file a run."""

from typing import Any

import numpy

import spectra
from benchmarks.study.measure import diagnosis
from benchmarks.study.prepare import Texts
from benchmarks.study.runs import Run
from benchmarks.study.state import State

MAPPED = ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.down_proj")


def details(run: Run, state: State, _texts: Texts) -> dict[str, Any]:
    """Write `matrices/<run>.npz` in the results and return the row that says what is in it.

    keys [matrices]; similarity, sigma, novelty, update_share [matrices, k]; verdict [matrices, k] (0 kept,
    1 degenerate, 2 rotated, 3 new); counts [matrices, k's, epsilons]; index [points] and spectrum_base, spectrum_tuned,
    spectrum_update [matrices, points] (not a number past a matrix's last value); for a few modules of the middle block
    map_<module> [64, 64], the |cos| of base directions (rows) and tuned ones (columns).
    """
    folder = state.checkpoint(run.id)
    rows = [row.to_dict() for row in diagnosis(state.base, folder).rows if row.ok]
    blocks = [row["intruders"] for row in rows]
    words = ("kept", "degenerate", "rotated", "new")
    points = max((row["spectrum"]["index"] for row in rows), key=len)
    arrays = {
        "keys": numpy.asarray([row["key"] for row in rows]),
        **{
            name: numpy.asarray([block[name] for block in blocks], numpy.float32)
            for name in ("similarity", "sigma", "novelty", "update_share")
        },
        "verdict": numpy.asarray([[words.index(word) for word in block["verdict"]] for block in blocks], numpy.uint8),
        "k": numpy.asarray(blocks[0]["sweep"]["k"]),
        "epsilon": numpy.asarray(blocks[0]["sweep"]["epsilon"]),
        "counts": numpy.asarray([block["sweep"]["count"] for block in blocks], numpy.uint8),
        "index": numpy.asarray(points),
        **{f"spectrum_{name}": _padded(rows, name, len(points)) for name in ("base", "tuned", "update")},
        **_maps(run, state, rows),
    }
    path = state.results / "matrices" / f"{run.id}.npz"
    path.parent.mkdir(exist_ok=True)
    numpy.savez_compressed(path, **arrays)
    return {
        **run.to_dict(),
        "status": "ok",
        "reason": "",
        "file": f"matrices/{path.name}",
        "bytes": path.stat().st_size,
    }


def _padded(rows: list[dict[str, Any]], name: str, length: int) -> numpy.ndarray:
    found = numpy.full((len(rows), length), numpy.nan, numpy.float32)
    for line, row in zip(found, rows, strict=True):
        values = row["spectrum"][name]
        line[: len(values)] = values
    return found


def _maps(run: Run, state: State, rows: list[dict[str, Any]]) -> dict[str, numpy.ndarray]:
    middle = sorted({row["block"] for row in rows})[len({row["block"] for row in rows}) // 2]
    keys = {row["module"]: row["key"] for row in rows if row["block"] == middle and row["module"] in MAPPED}
    found = {}
    for module, key in keys.items():
        compared = spectra.compare(
            state.base, {run.id: state.checkpoint(run.id)}, include=[key], matrix=key, method="exact", device="cpu"
        )
        found[f"map_{module.rpartition('.')[2]}"] = compared.maps[run.id].values.astype(numpy.float16)
    return found
