"""Two tuned models of one base beside each other: how much their updates share, matrix by matrix."""

import math
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

from spectra import table
from spectra.analysis.comparison import require_one_base
from spectra.analysis.diagnosis import SCHEMA, provenance
from spectra.analysis.settings import Progress, Settings
from spectra.analysis.stream import is_zero, read_each, status_of
from spectra.engine.resemblance import SIDES, Side
from spectra.engine.threads import suited_to
from spectra.engine.update_directions import update_directions
from spectra.errors import DecompositionError, InputError, UsageError
from spectra.loaders.base import open_base
from spectra.loaders.options import Reading
from spectra.loaders.pairing import Pairs, open_among, require_effect
from spectra.loaders.plan import Place, Skipped
from spectra.loaders.source import Model
from spectra.metrics.overlap import MOST, Overlap, alignment, gap_at, shared
from spectra.metrics.status import FAILED, FAILURES, OK, ZERO
from spectra.text import numbered
from spectra.updates import WeightPair

NAMES = ("first", "second")
_ASKED = ("epsilon", "side", "method", "spectrum")  # of an analysis, that this one has no use for


@dataclass(frozen=True)
class ModelOverlap(table.Tabular):
    """What two tuned models of one base have in common.

    rows : one `Overlap` for each matrix that both cover, in base order. only : the matrices that the first alone
    covers, and those that the second alone does (an adapter those it adapts, a full fine-tune all). skipped : of each
    model, what is not analysed and why. labels : the models' names; provenance : as in a diagnosis, with both models.
    """

    rows: tuple[Overlap, ...]
    only: tuple[tuple[str, ...], tuple[str, ...]]
    skipped: tuple[tuple[Skipped, ...], tuple[Skipped, ...]]
    labels: tuple[str, str]
    provenance: dict[str, Any]

    @property
    def failed(self) -> int:
        """Rows that could not be measured."""
        return sum(row.status in FAILURES for row in self.rows)

    @property
    def measured(self) -> list[Overlap]:
        """Rows with directions to compare."""
        return [row for row in self.rows if row.sides]

    @property
    def most_alike(self) -> Overlap | None:
        """The matrix whose updates share most of their leading output directions."""
        return max(self.measured, key=lambda row: row.side("left").shared, default=None)

    @property
    def cosine(self) -> float | None:
        """The cosine of the two updates of the whole model, all matrices measured as one vector."""
        found = [row.alignment for row in self.rows if row.alignment is not None]
        lengths = [math.hypot(*(getattr(one, name) for one in found)) for name in NAMES]
        if not all(lengths):
            return None
        return sum(one.first * one.second * one.cosine for one in found) / math.prod(lengths)

    def by_block(self, side: Side) -> list[tuple[int | None, float, float]]:
        """Return (block, median shared, median chance), blocks ascending, matrices outside the blocks last."""
        blocks: dict[int | None, list[Overlap]] = {}
        for row in self.measured:
            blocks.setdefault(row.place.block, []).append(row)
        order = sorted(blocks, key=lambda block: (block is None, block or 0))
        return [(block, *_medians(blocks[block], side)) for block in order]

    @property
    def summary(self) -> dict[str, Any]:
        """The numbers read first."""
        rows = self.measured
        sides = {side: dict(zip(("shared", "chance"), _medians(rows, side), strict=True)) for side in SIDES}
        return {
            "matrices": len(self.rows),
            "measured": len(rows),
            "failed": self.failed,
            **{f"only_{name}": len(only) for name, only in zip(NAMES, self.only, strict=True)},
            "k": statistics.median_low(row.k for row in rows) if rows else None,
            "cosine": self.cosine,
            **{side: sides[side] if rows else None for side in SIDES},
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the whole as plain data: JSON schema 1."""
        return {
            "schema": SCHEMA,
            "provenance": self.provenance,
            "summary": self.summary,
            "only": {name: list(only) for name, only in zip(NAMES, self.only, strict=True)},
            "skipped": {name: [one._asdict() for one in left] for name, left in zip(NAMES, self.skipped, strict=True)},
            "layers": [row.to_dict() for row in self.rows],
        }

    def flat_rows(self) -> list[dict[str, Any]]:
        """Return the rows without their maps."""
        rows = []
        for row in self.rows:
            found = row.to_dict()
            for side in SIDES:
                if found[side] is not None:
                    del found[side]["phi"]
            rows.append(found)
        return rows


def _medians(rows: Sequence[Overlap], side: Side) -> tuple[float, float]:
    """Return the medians of what is shared and of what chance gives, 0 and 0 of no rows."""
    found = [row.side(side) for row in rows]
    if not found:
        return 0.0, 0.0
    return statistics.median(one.shared for one in found), statistics.median(one.chance for one in found)


def overlap(
    base: Model,
    first: Model,
    second: Model,
    *,
    settings: Settings | None = None,
    initials: tuple[str | Path | None, str | Path | None] = (None, None),
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> ModelOverlap:
    """Compare the updates of two models of one base. See `spectra.overlap`.

    initials : of each, the adapter as it was before training.
    """
    settings = settings or Settings()
    started = time.monotonic()
    with ExitStack() as stack:
        # One for both: each of its matrices is read once.
        known = open_base(base, follow_symlinks=reading.get("follow_symlinks", False))
        stack.callback(known.source.close)
        opened = []
        for model, start in zip((first, second), initials, strict=True):
            own = reading | {"initial": start}
            opened.append(stack.enter_context(open_among(known, model, **own)))
        require_effect(opened)
        require_one_base(dict(zip(NAMES, opened, strict=True)))
        one, other = opened
        rows = list(_rows(one, other, settings, progress))
        told = [provenance(pairs, settings, time.monotonic() - started) for pairs in opened]
        return ModelOverlap(
            rows=tuple(rows),
            only=(_without(one, other), _without(other, one)),
            skipped=(tuple(one.skipped), tuple(other.skipped)),
            labels=(one.info.label, other.info.label),
            provenance=_both(told),
        )


def _both(told: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Join what is said of two models: what they share once, then each by its place."""
    common = {name: value for name, value in told[0].items() if name not in ("tuned", "notes", *_ASKED)}
    each = {name: one["tuned"] for name, one in zip(NAMES, told, strict=True)}
    return common | each | {"notes": list(dict.fromkeys(note for one in told for note in one["notes"]))}


def _without(one: Pairs, other: Pairs) -> tuple[str, ...]:
    return tuple(numbered(*place) for place in one.places if place not in other)


def _rows(first: Pairs, second: Pairs, settings: Settings, progress: Progress | None) -> Iterator[Overlap]:
    """Yield a row for every matrix that both cover, in base order."""
    places = [place for place in first.places if place in second]
    if not places:
        raise UsageError("the two models change no matrix in common: there is nothing to compare.")
    for place, found in read_each(places, lambda place: (first.pair(*place), second.pair(*place)), progress):
        if isinstance(found, InputError):
            yield _unread(first, place, found)
            continue
        with suited_to(found[0].shape):
            row = _row(*found, settings)
        yield row


def _unread(pairs: Pairs, place: Place, fault: InputError) -> Overlap:
    key, index = place
    return Overlap(key, pairs.base.name(key, index), index, pairs.base.layout(key).shape, FAILED, str(fault))


def _row(first: WeightPair, second: WeightPair, settings: Settings) -> Overlap:
    def row(status: str, reason: str = "", **found: Any) -> Overlap:
        notes = dict.fromkeys((*first.notes, *second.notes, *found.pop("notes", ())))
        return Overlap(first.key, first.name, first.index, first.shape, status, reason, notes=tuple(notes), **found)

    if first.shape != second.shape or first.layout != second.layout:
        shapes = " and ".join(f"{m} x {n}" for m, n in (first.shape, second.shape))
        return row(FAILED, f"the two updates are laid out differently ({shapes}): they have no common axes")
    try:
        for name, pair in zip(NAMES, (first, second), strict=True):
            if is_zero(pair):
                return row(ZERO, f"the update of the {name} model is zero: it equals the base")
        return row(OK, **_measured(first, second, settings))
    except (DecompositionError, MemoryError, RuntimeError) as fault:
        return row(*status_of(fault, "leave it out with --exclude, or use a larger machine"))


def _measured(first: WeightPair, second: WeightPair, settings: Settings) -> dict[str, Any]:
    pairs = first, second
    each = one, other = tuple(update_directions(pair.update, device=settings.device, needed=True) for pair in pairs)
    k = min(settings.k, MOST, *map(len, each))
    wholes = [pair.update.factors is not None for pair in pairs]
    return {
        "k": k,
        "rank": tuple(map(len, each)),
        "gap": tuple(gap_at(found.values, k, whole=whole) for found, whole in zip(each, wholes, strict=True)),
        "alignment": alignment(first.update, second.update),
        "sides": tuple(shared(one, other, side, k) for side in SIDES) if k else (),
        "notes": tuple(f"{name}: {found.how}" for name, found in zip(NAMES, each, strict=True)),
    }
