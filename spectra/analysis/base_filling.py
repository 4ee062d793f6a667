"""Filling the cache of bases: every matrix of a base that can be compared is decomposed once and kept.

What that takes is known before any weight is read, from the shapes alone: `plan`, then `fill`.
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spectra.analysis.memory import is_out_of_memory
from spectra.analysis.settings import Progress
from spectra.basis_cache import BasisCache, entry_bytes, folder
from spectra.engine.choose import Request, require_device, suits
from spectra.engine.cost import Machine
from spectra.engine.dense import svd
from spectra.errors import DecompositionError, FormatError, InputError, MachineError
from spectra.loaders.base import Base
from spectra.loaders.matching import selector
from spectra.loaders.plan import Place, Skipped
from spectra.text import listing, nearest, numbered, show, size

_COPIES = 8  # peak memory of one matrix in matrices of its size, measured at 1536 and 2048


@dataclass(frozen=True, slots=True)
class FillPlan:
    """What filling will take at most; what the cache has already is neither made nor written again.

    places : (key, expert's number) of the matrices to decompose, in base order; skipped : (key, reason) for every
    other tensor. bytes : on disk (up to twice that where float16 will not do); memory : at the peak, in bytes;
    seconds : predicted by the cost model for the device.
    """

    label: str
    folder: Path
    device: str
    places: tuple[Place, ...]
    skipped: tuple[Skipped, ...]
    bytes: int
    memory: int
    seconds: float

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of the matrices, an expert's with its number."""
        return tuple(numbered(*place) for place in self.places)

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as plain data."""
        return {
            "base": self.label,
            "folder": str(self.folder),
            "device": self.device,
            "matrices": len(self.places),
            "bytes": self.bytes,
            "memory": self.memory,
            "seconds": round(self.seconds, 1),
            "skipped": [skipped._asdict() for skipped in self.skipped],
        }


@dataclass(slots=True)
class Filling:
    """What filling did. made, present : keys; failed : (key, reason); skipped : as planned, and zero matrices.

    broken : one sentence for every entry that was found broken, and was made again. bytes : of the entries made.
    """

    label: str
    folder: Path
    made: list[str] = field(default_factory=list)
    present: list[str] = field(default_factory=list)
    failed: list[Skipped] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    bytes: int = 0
    seconds: float = 0.0


def plan(base: Base, *, include: Sequence[str] = (), exclude: Sequence[str] = (), device: str = "auto") -> FillPlan:
    """Say what filling the cache with a base will take. Reads no weight.

    Raises InputError when no matrix is left, MachineError for a device that is not there.
    """
    device = require_device(device)
    include, exclude = ((given,) if isinstance(given, str) else given for given in (include, exclude))
    reasons = {key: base.reason_against(key) or _too_small(base.layout(key).shape) for key in base.tensors}
    fit = [key for key, reason in reasons.items() if reason is None]
    wanted = selector(include, exclude)
    keys = [key for key in fit if wanted(key, base.name(key))]
    if not keys:
        raise _nothing_left(base, fit, include, exclude)
    reasons |= {key: "left out by include / exclude" for key in fit if not wanted(key, base.name(key))}
    places = [(key, index) for key in keys for index in base.indices(key)]
    shapes = [base.layout(key).shape for key, _ in places]
    return FillPlan(
        label=base.source.label,
        folder=folder(),
        device=device,
        places=tuple(places),
        skipped=tuple(Skipped(key, reason) for key, reason in reasons.items() if reason is not None),
        bytes=sum(map(entry_bytes, shapes)),
        memory=_COPIES * 4 * max(m * n for m, n in shapes),
        seconds=sum(map(Machine.of(device).exact, shapes)),
    )


def _too_small(shape: tuple[int, int]) -> str | None:
    m, n = shape
    return None if suits(shape, Request()) else f"{m} x {n}: decomposed faster than read"


def _nothing_left(base: Base, fit: Sequence[str], include: Sequence[str], exclude: Sequence[str]) -> InputError:
    if not fit:
        return InputError(f"'{show(base.source.label)}' holds no matrix that is worth keeping decomposed.")
    like = nearest(include[0], fit) if include else None
    hint = f" The nearest name is '{show(like)}'." if like else ""
    return InputError(f"no weight matches {listing([*include, *(f'not {name}' for name in exclude)])}.{hint}")


def fill(base: Base, planned: FillPlan, progress: Progress | None = None) -> Filling:
    """Decompose the planned matrices that the cache does not have, and keep them. See `spectra.fill_base_cache`."""
    started = time.monotonic()
    cache = BasisCache(planned.folder)
    _require_room(cache, planned.bytes)
    done = Filling(planned.label, planned.folder, skipped=list(planned.skipped))
    for number, place in enumerate(planned.places):
        if progress is not None:
            progress(number, len(planned.places), numbered(*place))
        _fill_one(base, place, planned.device, cache, done)
    if progress is not None:
        progress(len(planned.places), len(planned.places), "")
    done.seconds = time.monotonic() - started
    return done


def _require_room(cache: BasisCache, wanted: int) -> None:
    """Refuse to start where the disk cannot hold the entries, even if every one there is were one of them."""
    there = next(path for path in (cache.folder, *cache.folder.parents) if path.exists())
    free, missing = shutil.disk_usage(there).free, wanted - cache.bytes()
    if missing > free:
        raise MachineError(
            f"'{show(cache.folder)}' has {size(free)} free and at least {size(missing)} are needed. Free space there, "
            "set SPECTRA_CACHE to another folder, or take fewer matrices with --include."
        )


def _fill_one(base: Base, place: Place, device: str, cache: BasisCache, done: Filling) -> None:
    key, matrix = numbered(*place), base.matrix(place[0], index=place[1])
    if not bool(matrix.any()):
        done.skipped.append(Skipped(key, "it is zero: it has no directions"))
        return
    try:
        found = cache.find(matrix)
    except FormatError as fault:
        done.broken.append(str(fault))
        found = None
    if found is not None:
        done.present.append(key)
        return
    try:
        made = svd(matrix, device=device)
    except DecompositionError as fault:
        done.failed.append(Skipped(key, str(fault)))
        return
    except (MemoryError, RuntimeError) as fault:
        if not is_out_of_memory(fault):
            raise
        needed = size(_COPIES * 4 * matrix.numel())
        done.failed.append(Skipped(key, f"out of memory: {' x '.join(map(str, matrix.shape))} needs about {needed}"))
        return
    done.bytes += cache.keep(matrix, made).stat().st_size
    done.made.append(key)
