"""Measure the adapters that have no weight update: prompts, prefixes and bottlenecks, for what they are."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from spectra import __version__
from spectra.analysis.settings import Progress, Settings
from spectra.engine import dense, factored
from spectra.engine.krylov import Operator
from spectra.engine.leading import leading
from spectra.errors import DecompositionError, UnsupportedError
from spectra.loaders.base import Base, open_base
from spectra.loaders.insertions import Beside, Inserted, Insertion, open_insertions
from spectra.loaders.source import Model
from spectra.metrics.insertion import SPAN, InsertionRow, overlap
from spectra.metrics.ranks import ranks
from spectra.metrics.status import FAILED, OK
from spectra.table import Tabular, flatten
from spectra.text import show

_KRYLOV_FROM = 512  # smaller dimension from which the leading directions come cheaper by products


@dataclass(frozen=True, slots=True)
class Insertions(Tabular):
    """Every inserted matrix of one adapter, measured. method : as people call it."""

    method: str
    base: str
    tuned: str
    rows: tuple[InsertionRow, ...]
    skipped: tuple[tuple[str, str], ...]
    provenance: dict[str, Any]

    @property
    def failed(self) -> int:
        return sum(row.status != OK for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": 1,
            "provenance": self.provenance,
            "summary": {
                "method": self.method,
                "insertions": len(self.rows),
                "failed": self.failed,
                "weight_updates": 0,
            },
            "skipped": [{"key": key, "reason": reason} for key, reason in self.skipped],
            "insertions": [row.to_dict() for row in self.rows],
        }

    def flat_rows(self) -> list[dict[str, Any]]:
        return [flatten(row.to_dict()) for row in self.rows]


def insertions(
    base: Model,
    tuned: str | Path,
    settings: Settings,
    progress: Progress | None = None,
    *,
    follow_symlinks: bool = False,
) -> Insertions:
    """Measure what an adapter without weight updates inserts. Raises UnsupportedError where it inserts nothing."""
    started = time.perf_counter()
    found = open_insertions(tuned, follow_symlinks=follow_symlinks)
    if found is None:
        raise UnsupportedError(f"'{show(Path(tuned).name)}' inserts no prompt, prefix or bottleneck that is read.")
    opened = open_base(base, follow_symlinks=follow_symlinks)
    try:
        rows = _rows(found, opened, settings, progress)
    finally:
        opened.source.close()
        found.source.close()
    return Insertions(
        found.method, opened.source.label, found.source.label, tuple(rows), found.skipped,
        {
            "spectra": __version__, "torch": torch.__version__, "device": settings.device, "k": settings.k,
            "base": {"label": opened.source.label}, "tuned": {"label": found.source.label, "method": found.method},
            "seconds": time.perf_counter() - started,
        },
    )  # fmt: skip


def _rows(found: Inserted, base: Base, settings: Settings, progress: Progress | None) -> list[InsertionRow]:
    rows: list[InsertionRow] = []
    directions: dict[Beside, torch.Tensor] = {}
    for insertion in found.read(base):
        if progress is not None:
            progress(len(rows), len(rows) + 1, insertion.name)
        rows.append(_measured(insertion, base, settings, directions))
    return rows


def _measured(
    insertion: Insertion, base: Base, settings: Settings, directions: dict[Beside, torch.Tensor]
) -> InsertionRow:
    try:
        values = _values(insertion)
        beside, share = insertion.beside, None
        if beside is not None and insertion.matrix is not None and bool(values[0] > 0):
            if beside not in directions:
                directions.clear()  # the next insertions stand elsewhere
                directions[beside] = _directions(beside, base, settings.device)
            share = overlap(insertion.matrix, directions[beside], beside.key, beside.space)
    except DecompositionError as fault:
        return InsertionRow(insertion.name, insertion.kind, insertion.shape, FAILED, str(fault), None, (), None, None)
    return InsertionRow(
        name=insertion.name,
        kind=insertion.kind,
        shape=insertion.shape,
        status=OK,
        reason=None,
        norm=float(values.norm()),
        sigma=tuple(values[: settings.k].tolist()),
        rank=ranks(values, insertion.shape),
        overlap=share,
    )


def _values(insertion: Insertion) -> torch.Tensor:
    if insertion.factors is not None:
        return factored.svd(*insertion.factors).S
    assert insertion.matrix is not None
    return dense.values(insertion.matrix)[0].double()


def _directions(beside: Beside, base: Base, device: str) -> torch.Tensor:
    """Return the leading directions of a base weight on one side: [dimensions, span], orthonormal."""
    weight = base.matrix(beside.key)
    span = min(SPAN, *weight.shape)
    if min(weight.shape) < _KRYLOV_FROM:
        known = dense.svd(weight, device=device)
        return known.Vh[:span].T.cpu() if beside.space == "inputs" else known.U[:, :span].cpu()
    found = leading(Operator(weight.to(device)[None]), span)
    return (found.V if beside.space == "inputs" else found.U)[0].T.cpu()


def by_kind(rows: Sequence[InsertionRow]) -> dict[str, list[InsertionRow]]:
    """Return the rows of each kind, in the order in which they come."""
    kinds: dict[str, list[InsertionRow]] = {}
    for row in rows:
        kinds.setdefault(row.kind, []).append(row)
    return kinds
