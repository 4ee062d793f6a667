"""Several tuned models of one base on one page: LoRA beside full fine-tuning."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from spectra import table
from spectra.analysis.claims import Claim, claims
from spectra.analysis.diagnosis import SCHEMA, Diagnosis, conclude
from spectra.analysis.equal_size import at_equal_size
from spectra.analysis.guide import Guide, guide
from spectra.analysis.ranking import Ranking, Standing, rank_models
from spectra.analysis.settings import Progress, Settings
from spectra.analysis.side_by_side import line_up
from spectra.analysis.similarity_map import SimilarityMap, similarity_map
from spectra.analysis.stream import stream
from spectra.analysis.sweep import require_sweepable
from spectra.errors import UsageError
from spectra.loaders.base import open_base
from spectra.loaders.options import Reading
from spectra.loaders.pairing import Pairs, open_among, require_effect
from spectra.loaders.plan import Place
from spectra.loaders.replication import layers_of
from spectra.loaders.source import Model
from spectra.metrics.layer import Layer
from spectra.text import nearest, numbered, show


@dataclass(frozen=True)
class ModelComparison:
    """Diagnoses of several models of one base, side by side.

    models : name -> diagnosis, in the order given; matrix : the one whose similarity maps are in `maps`;
    ranking : the models in order, as far as the evidence agrees on one; claims : what differs between them, each with
    its evidence and its limits, what the evidence disagrees on first;
    guide : the decision table, with this model's own numbers where there are any.
    """

    models: dict[str, Diagnosis]
    matrix: str | None
    maps: dict[str, SimilarityMap]
    ranking: Ranking
    claims: tuple[Claim, ...]
    guide: Guide

    @property
    def standings(self) -> tuple[Standing, ...]:
        """The models in the order of the ranking."""
        return self.ranking.standings

    @property
    def failed(self) -> int:
        return sum(diagnosis.failed for diagnosis in self.models.values())

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain data: one report of schema 1 a model."""
        return {
            "schema": SCHEMA,
            "models": {name: diagnosis.to_dict() for name, diagnosis in self.models.items()},
            "ranking": [standing.to_dict() for standing in self.standings],
            "ranking_rule": self.ranking.rule,
            "claims": [asdict(claim) for claim in self.claims],
            "guide": self.guide.to_dict(),
            "matrix": self.matrix,
            "similarity": {name: found.values.tolist() for name, found in self.maps.items()},
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """Return the comparison as JSON, and write it when a path is given."""
        return table.given(table.to_json(self.to_dict()), path)

    def to_csv(self, path: str | Path | None = None) -> str:
        """Return all rows as CSV with the model's name first, and write them when a path is given."""
        rows = [{"model": name, **row} for name, diagnosis in self.models.items() for row in diagnosis.flat_rows()]
        return table.given(table.to_csv(rows), path)


def compare(
    base: Model,
    models: Mapping[str, Model],
    *,
    settings: Settings | None = None,
    matrix: str | None = None,
    equal_size: bool = False,
    progress: Progress | None = None,
    initials: Mapping[str, str | Path] | None = None,
    **reading: Unpack[Reading],
) -> ModelComparison:
    """Diagnose several models in one pass over the base. See `spectra.compare`.

    initials : by the name of a model, the adapter as it was before training.
    """
    settings = settings or Settings()
    if equal_size:
        require_sweepable(settings)
    if not isinstance(models, Mapping):
        raise UsageError(f"models must map names to models, not be a {type(models).__name__}.")
    if not models:
        raise UsageError("nothing to compare: give at least one tuned model.")
    unknown = sorted(set(initials or {}) - set(models))
    if unknown:
        raise UsageError(f"initial names '{show(unknown[0])}', which is none of the models.")
    started = time.monotonic()
    with ExitStack() as stack:
        # One for all: each of its matrices is read once.
        opened, shared = {}, open_base(base, follow_symlinks=reading.get("follow_symlinks", False))
        stack.callback(shared.source.close)
        for name, model in models.items():
            own = reading | {"initial": (initials or {}).get(name)}
            opened[name] = stack.enter_context(open_among(shared, model, **own))
        require_effect(opened.values())
        require_one_base(opened)
        chosen = None if matrix is None else _place_of(matrix, opened)
        rows: dict[str, list[Layer]] = {name: [] for name in opened}
        for name, row in stream(opened, settings, progress):
            rows[name].append(row)
        seconds = time.monotonic() - started
        found = {name: conclude(pairs, rows[name], settings, seconds) for name, pairs in opened.items()}
        chosen = chosen or _most_telling(rows)
        holders = {name: pairs for name, pairs in opened.items() if chosen in _measured(rows[name])}
        maps = {name: similarity_map(pairs, chosen, settings) for name, pairs in holders.items() if chosen}
        table_ = guide(next(iter(opened.values())).base, found)
        lined_up = line_up(found)
        if lined_up and equal_size:
            sized = tuple(at_equal_size(pair, found, opened, settings, progress) for pair in lined_up.pairs)
            lined_up = replace(lined_up, pairs=sized)
    ranking = rank_models(found, lined_up)
    said = (*ranking.ties, *claims(found, lined_up))
    return ModelComparison(found, numbered(*chosen) if chosen else None, maps, ranking, said, table_)


def require_one_base(opened: Mapping[str, Pairs]) -> None:
    """Refuse models whose layers of one name are not the same: one of them grows the base, or each does otherwise."""
    bases = {name: layers_of(pairs.base) for name, pairs in opened.items()}
    first = next(iter(bases.values()))
    other = next((name for name, layers in bases.items() if layers != first), None)
    if other is not None:
        raise UsageError(
            f"'{show(other)}' and '{show(next(iter(bases)))}' have different layers under one name "
            "(layer_replication): diagnose each by itself."
        )


def _measured(rows: Sequence[Layer]) -> set[Place]:
    return {(layer.key, layer.index) for layer in rows if layer.ok}


def _most_telling(rows: Mapping[str, Sequence[Layer]]) -> Place | None:
    """The matrix that most models share and, among those, where they have most intruders."""
    shared: Counter[Place] = Counter()
    found: Counter[Place] = Counter()
    for layers in rows.values():
        for layer in layers:
            if layer.ok:
                shared[layer.key, layer.index] += 1
                found[layer.key, layer.index] += layer.found
    return max(shared, key=lambda place: (shared[place], found[place]), default=None)


def _place_of(matrix: str, opened: Mapping[str, Pairs]) -> Place:
    """Return the matrix of a name, in a stack of experts `name[number]`."""
    known = {numbered(*place): place for pairs in opened.values() for place in pairs.places}
    if matrix not in known:
        like = nearest(matrix, known)
        hint = f" Did you mean '{show(like)}'?" if like else ""
        raise UsageError(f"no model changes a matrix called '{show(matrix)}'.{hint}")
    return known[matrix]
