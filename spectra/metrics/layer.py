"""One row of a report: every measurement of one matrix, or the reason why there is none."""

from dataclasses import asdict, dataclass, field
from typing import Any

from spectra.engine.choose import Decompositions
from spectra.metrics.intruders import Intruders, intruders
from spectra.metrics.noise import Floor, coarser, rounding_floor
from spectra.metrics.norms import Norms, norms
from spectra.metrics.place import Place, place
from spectra.metrics.ranks import Ranks, estimated_ranks, ranks
from spectra.metrics.row import Row
from spectra.metrics.spectrum import Spectrum, spectrum
from spectra.text import show
from spectra.updates import Storage, WeightPair

OK, ZERO, ZERO_BASE, NONFINITE, FAILED, OOM = "ok", "zero_update", "zero_base", "nonfinite", "failed", "oom"
FAILURES = (NONFINITE, FAILED, OOM)


@dataclass(frozen=True, repr=False)
class Layer(Row):
    """All that is known of one matrix. As a mapping it reads like its JSON: `row["rank"]["effective"]`.

    status : "ok", "zero_update", "zero_base", "nonfinite", "failed" or "oom"; the measurements are there for "ok".
    """

    key: str
    name: str
    index: int | None
    shape: tuple[int, int]
    status: str
    reason: str
    method: str
    update_kind: str
    base_storage: Storage
    update_storage: Storage
    rank: Ranks | None = None
    norm: Norms | None = None
    floor: Floor | None = None
    intruders: tuple[Intruders, ...] = ()
    spectrum: Spectrum | None = None
    notes: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        m, n = self.shape
        return f"<Layer {show(self.key)} {m} x {n}: {self.status}, {self.found} of {self.examined} intruders>"

    @property
    def place(self) -> Place:
        return place(self.name)

    @property
    def ok(self) -> bool:
        return self.status == OK

    @property
    def found(self) -> int:
        """Intruders of the paper's definition, over the sides asked for."""
        return sum(side.count for side in self.intruders)

    @property
    def examined(self) -> int:
        """Leading vectors that were compared, over the sides asked for."""
        return sum(len(side.similarity) for side in self.intruders)

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data, in the JSON schema's words."""
        blocks = {side.side: _block(side) for side in self.intruders}
        where = self.place
        return {
            "key": self.key,
            "name": self.name,
            "index": self.index,
            "stack": where.stack,
            "block": where.block,
            "module": where.module,
            "shape": list(self.shape),
            "status": self.status,
            "reason": self.reason,
            "method": self.method,
            "update": {"kind": self.update_kind, "allotted_rank": self.rank.allotted if self.rank else None},
            "dtype": {"base": self.base_storage.dtype, "update": self.update_storage.dtype},
            "parameters": {"base": self.base_storage.parameters, "update": self.update_storage.parameters},
            "bytes": {"base": self.base_storage.bytes, "update": self.update_storage.bytes},
            "rank": asdict(self.rank) if self.rank else None,
            "norm": asdict(self.norm) if self.norm else None,
            "floor": {**asdict(self.floor), "edge": self.floor.edge} if self.floor else None,
            "intruders": next(iter(blocks.values())) if len(blocks) == 1 else (blocks or None),
            "spectrum": asdict(self.spectrum) if self.spectrum else None,
            "notes": list(self.notes),
        }

    def __hash__(self) -> int:
        return hash((self.key, self.index))


def _block(side: Intruders) -> dict[str, Any]:
    counts = {name: getattr(side, name) for name in ("count", "degenerate", "rotated", "new")}
    values = asdict(side)
    sweep = {name: values.pop(name) for name in ("sweep_k", "sweep_epsilon", "sweep")}
    head = {name: values.pop(name) for name in ("k", "epsilon", "side")}
    counted = {"k": sweep["sweep_k"], "epsilon": sweep["sweep_epsilon"], "count": sweep["sweep"]}
    return {**head, **counts, **values, "sweep": counted}


def measure(pair: WeightPair, found: Decompositions, *, k: int = 10, epsilon: float = 0.5) -> Layer:
    """Measure one decomposed pair: ranks, norms, rounding floor, intruders on each side compared, spectra."""
    floor = rounding_floor(pair.base, pair.update, coarser(pair.base_storage.dtype, _rounded_to(pair)))
    size = norms(pair.base, pair.update, found.base_values, found.update_values)
    return Layer(
        **identity(pair),
        status=OK,
        reason="",
        method=found.method,
        rank=_ranks(found, pair, floor.edge),
        norm=size,
        floor=floor,
        intruders=tuple(
            intruders(side, found.tuned_values, found.moved, energy=size.update**2, k=k, epsilon=epsilon)
            for side in found.resemblances
        ),
        spectrum=spectrum(found.base_values, found.tuned_values, found.update_values),
        notes=(*pair.notes, f"engine: {found.reason}"),
    )


def _ranks(found: Decompositions, pair: WeightPair, floor: float) -> Ranks:
    if found.update_estimate is not None:
        return estimated_ranks(found.update_estimate, pair.shape, floor=floor, allotted=pair.allotted)
    return ranks(found.update_values, pair.shape, floor=floor, allotted=pair.allotted)


def _rounded_to(pair: WeightPair) -> str:
    """The dtype that W was rounded to: only a weight stored in full was, an adapter's factors were not."""
    return pair.update_storage.dtype if pair.update.kind == "dense" else pair.base_storage.dtype


def unmeasured(pair: WeightPair, status: str, reason: str, intruders: tuple[Intruders, ...] = ()) -> Layer:
    """Return the row of a pair that was not decomposed: a zero update (which has no intruders) or a failure."""
    zero = status == ZERO
    nothing = pair.base.new_zeros(0)
    return Layer(
        **identity(pair),
        status=status,
        reason=reason,
        method="none",
        rank=ranks(nothing, pair.shape, allotted=pair.allotted) if zero else None,
        norm=norms(pair.base, pair.base.new_zeros(1, 1).expand(pair.shape), nothing, nothing) if zero else None,
        intruders=intruders,
        notes=pair.notes,
    )


def identity(pair: WeightPair) -> dict[str, Any]:
    """What a row says of its matrix before anything is measured."""
    return {
        "key": pair.key,
        "name": pair.name,
        "index": pair.index,
        "shape": pair.shape,
        "update_kind": pair.update.kind,
        "base_storage": pair.base_storage,
        "update_storage": pair.update_storage,
    }
