"""What spectra says of one fine-tune, as one small row."""

import statistics
from pathlib import Path
from typing import Any

import spectra
from benchmarks.study.model import BLOCKS

COUNTS = ("count", "degenerate", "rotated", "new")


def diagnosis(base: Path, tuned: Path, initial: Path | None = None) -> spectra.Report:
    """The matrices in the blocks by full decompositions (the sweep over k reaches 100), on the CPU.

    Full fine-tuning also moves the embedding, which LoRA does not reach: it is left out for all alike.
    """
    return spectra.diagnose(base, tuned, method="exact", device="cpu", include=[BLOCKS], initial=initial)


def compact(report: spectra.Report) -> dict[str, Any]:
    """A model's numbers, and the same for every kind of module.

    A matrix whose update was pruned away whole (AdaLoRA) is measured too: it has none of anything.

    counts : over matrices, the paper's and its three kinds, of `examined` leading directions (k = 10, epsilon = 0.5).
    by_k_and_epsilon : `counts[k][epsilon]` over matrices. energy_share : of ||dW||^2 over all matrices, what lies in
    intruders. Ranks and ratio are medians over matrices; update_over_base is ||dW|| / ||W0|| over all of them;
    spectral_ratio is the median of the largest value of dW over that of W0.
    """
    rows = [row.to_dict() for row in report.rows if row.status in ("ok", "zero_update")]
    if len(rows) < len(report.rows):
        raise ValueError(f"{len(report.rows) - len(rows)} of {len(report.rows)} matrices could not be measured.")
    first = rows[0]["intruders"]["sweep"]
    table = [row["intruders"]["sweep"]["count"] for row in rows]
    return {
        "matrices": len(rows),
        **_numbers(rows),
        "by_k_and_epsilon": {
            "k": first["k"],
            "epsilon": first["epsilon"],
            "counts": [
                [sum(one[at][to] for one in table) for to in range(len(first["epsilon"]))]
                for at in range(len(first["k"]))
            ],
        },
        "with_intruders": sum(row["intruders"]["count"] > 0 for row in rows),
        "least_similarity": min(min(row["intruders"]["similarity"], default=1.0) for row in rows),
        "null": max(row["intruders"]["null"] for row in rows),
        "by_module": {name: _numbers(part) for name, part in _grouped(rows, "module").items()},
        "by_block": {name: _numbers(part)["counts"]["count"] for name, part in _grouped(rows, "block").items()},
    }


def _numbers(rows: list[dict[str, Any]]) -> dict[str, Any]:
    blocks = [row["intruders"] for row in rows]
    update = sum(row["norm"]["update"] ** 2 for row in rows)
    energy = sum(block["energy_share"] * row["norm"]["update"] ** 2 for block, row in zip(blocks, rows, strict=True))

    def middle(part: str, name: str) -> float:
        return float(statistics.median(row[part][name] for row in rows))

    return {
        "examined": sum(len(block["similarity"]) for block in blocks),
        "counts": {name: sum(block[name] for block in blocks) for name in COUNTS},
        "energy_share": energy / update if update else 0.0,
        "effective_rank": middle("rank", "effective"),
        "stable_rank": middle("rank", "stable"),
        "energy_90": middle("rank", "energy_90"),
        "above_floor": middle("rank", "above_floor"),
        "ratio": middle("norm", "ratio"),
        "update_over_base": (update / sum(row["norm"]["base"] ** 2 for row in rows)) ** 0.5,
        "spectral_ratio": float(
            statistics.median(
                row["norm"]["update_spectral"] / row["norm"]["base_spectral"] if row["status"] == "ok" else 0.0
                for row in rows
            )
        ),
    }


def _grouped(rows: list[dict[str, Any]], by: str) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(str(row[by]), []).append(row)
    return found
