"""One row of a report: every measurement of one matrix, or the reason why there is none."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from spectra.engine.choose import Decompositions
from spectra.engine.decomposition import resolution
from spectra.engine.update_directions import update_directions
from spectra.metrics.amplification import Amplification, amplification
from spectra.metrics.attribution import Attribution, attribution
from spectra.metrics.balance import Balance, balance
from spectra.metrics.blocks import Block, over_rows
from spectra.metrics.edges import Edges, edges
from spectra.metrics.intruders import Intruders, intruders
from spectra.metrics.magnitude import Lengths, Magnitude, magnitude_of
from spectra.metrics.noise import Floor, Noise, coarser, floor_of, is_packed
from spectra.metrics.norms import Norms, Sizes, norms, norms_of
from spectra.metrics.ranks import Ranks, estimated_ranks, ranks
from spectra.metrics.row import MatrixRow
from spectra.metrics.spectrum import Spectrum, spectrum
from spectra.metrics.status import OK, ZERO, ZERO_BASE
from spectra.metrics.tails import Tails, tails
from spectra.metrics.threshold import Threshold, threshold
from spectra.text import listing, show
from spectra.updates import Kronecker, Storage, WeightPair

_FURTHER = ("attribution", "amplification", "balance", "magnitude", "edges", "tails")


@dataclass(frozen=True, repr=False)
class Layer(MatrixRow):
    """All that is known of one matrix. As a mapping it reads like its JSON: `row["rank"]["effective"]`.

    status : "ok", "zero_update", "zero_base", "nonfinite", "failed" or "oom"; the measurements are there for "ok", of
    "zero_update" and "zero_base" the balance too. scaling : as of the pair.
    """

    method: str
    update_kind: str
    base_storage: Storage
    update_storage: Storage
    scaling: float | None = None
    rank: Ranks | None = None
    norm: Norms | None = None
    floor: Floor | None = None
    intruders: tuple[Intruders, ...] = ()
    spectrum: Spectrum | None = None
    attribution: Attribution | None = None
    amplification: Amplification | None = None
    balance: Balance | None = None
    magnitude: Magnitude | None = None
    edges: Edges | None = None
    tails: Tails | None = None
    threshold: Threshold | None = None
    notes: tuple[str, ...] = field(default=())

    def __repr__(self) -> str:
        m, n = self.shape
        return f"<Layer {show(self.key)} {m} x {n}: {self.status}, {self.found} of {self.examined} intruders>"

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
        return {
            **self.head(),
            "method": self.method,
            "update": {
                "kind": self.update_kind,
                "allotted_rank": self.rank.allotted if self.rank else None,
                "scaling": self.scaling,
            },
            "dtype": {"base": self.base_storage.dtype, "update": self.update_storage.dtype},
            "parameters": {"base": self.base_storage.parameters, "update": self.update_storage.parameters},
            "bytes": {"base": self.base_storage.bytes, "update": self.update_storage.bytes},
            "rank": asdict(self.rank) if self.rank else None,
            "norm": asdict(self.norm) if self.norm else None,
            "floor": _floor(self.floor) if self.floor else None,
            "intruders": next(iter(blocks.values())) if len(blocks) == 1 else (blocks or None),
            "spectrum": asdict(self.spectrum) if self.spectrum else None,
            **{name: asdict(part) if (part := getattr(self, name)) else None for name in _FURTHER},
            "threshold": self.threshold.to_dict() if self.threshold else None,
            "notes": list(self.notes),
        }

    def __hash__(self) -> int:
        return hash((self.key, self.index))


def _floor(floor: Floor) -> dict[str, Any]:
    return {**asdict(floor), "edge": floor.edge, "limited_by": floor.limited_by}


def _block(side: Intruders) -> dict[str, Any]:
    counts = {name: getattr(side, name) for name in ("count", "degenerate", "rotated", "new")}
    values = asdict(side)
    sweep = {name: values.pop(name) for name in ("sweep_k", "sweep_epsilon", "sweep")}
    head = {name: values.pop(name) for name in ("k", "epsilon", "side")}
    counted = {"k": sweep["sweep_k"], "epsilon": sweep["sweep_epsilon"], "count": sweep["sweep"]}
    return {**head, **counts, **values, "sweep": counted}


def measure(
    pair: WeightPair, found: Decompositions, *, k: int = 10, epsilon: float = 0.5, device: str = "cpu"
) -> Layer:
    """Measure one decomposed pair: ranks, norms, rounding floor, intruders on each side compared, spectra.

    device : where the leading directions of an update without factors are found.
    """
    spans = _over_rows(pair)
    noise = [span.noise for span in spans if span.noise is not None]
    floor = floor_of(noise, pair.shape, edge_computed=_resolved(found, pair)) if noise else None
    size = norms_of([span.sizes for span in spans], found.base_values, found.update_values)
    directions, seen = update_directions(pair.update, known=found.update, device=device), found.projections
    return Layer(
        **identity(pair),
        status=OK,
        reason="",
        method=found.method,
        rank=_ranks(found, pair, None if floor is None else floor.edge),
        norm=size,
        floor=floor,
        intruders=tuple(
            intruders(side, found.tuned_values, found.moved, energy=size.update**2, k=k, epsilon=epsilon)
            for side in found.resemblances
        ),
        spectrum=spectrum(found.base_values, found.tuned_values, found.update_values),
        attribution=attribution(seen, directions, pair.update, found.tuned_values, k=k) if seen else None,
        amplification=amplification(pair.base, directions, size),
        balance=balance(pair.update, pair.scaling),
        magnitude=magnitude_of([span.lengths for span in spans]),
        **_of_whole_spectra(found, pair.shape, k),
        notes=(
            *pair.notes,
            *_packed(pair),
            f"engine: {found.reason}" + ("" if found.update else f"; {directions.how}"),
        ),
    )


@dataclass(slots=True)
class _Sums:
    """All that is added up over some rows of a pair, in one walk: the product of its factors is formed once."""

    noise: Noise | None
    sizes: Sizes = field(default_factory=Sizes)
    lengths: Lengths = field(default_factory=Lengths)

    def add(self, block: Block) -> None:
        if self.noise is not None:
            self.noise.add(block)
        self.sizes.add(block)
        self.lengths.add(block)


def _over_rows(pair: WeightPair) -> list[_Sums]:
    dtype = coarser(pair.base_storage.dtype, _rounded_to(pair))
    return over_rows(lambda: _Sums(None if dtype is None else Noise(dtype)), pair.base, pair.update)


def _of_whole_spectra(found: Decompositions, shape: tuple[int, int], k: int) -> dict[str, Any]:
    """What needs every singular value: the path taken may know the leading ones alone."""
    base, tuned = (S if len(S) == min(shape) else None for S in (found.base_values, found.tuned_values))
    update = found.update_values if found.update_estimate is None else None
    strongest = float(found.update_values[0])
    return {
        "edges": None if update is None else edges(update, shape),
        "tails": tails(base, tuned, update, shape),
        "threshold": None if base is None or not strongest else threshold(base, shape, strongest, k=k),
    }


def _resolved(found: Decompositions, pair: WeightPair) -> float:
    """The size below which the values of dW are rounding of their computation: in float64 for factors and structures.

    The core of factors has errors of eps sigma_1 as well, but of an eps that only files in float64 do not outweigh.
    """
    exact = found.update is not None or (found.update_estimate is None and isinstance(pair.update, Kronecker))
    return resolution(float(found.update_values[0]), pair.shape, fine=exact)


def _packed(pair: WeightPair) -> Iterator[str]:
    """Say why there is no floor where there is none."""
    packed = dict.fromkeys(dtype for dtype in (pair.base_storage.dtype, _rounded_to(pair)) if is_packed(dtype))
    if packed:
        yield (
            f"no rounding floor: the steps of weights packed as {listing(packed)} depend on their scales, so that it "
            "is unknown how many values of dW stand above rounding"
        )


def _ranks(found: Decompositions, pair: WeightPair, floor: float | None) -> Ranks:
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
        balance=balance(pair.update, pair.scaling) if status in (ZERO, ZERO_BASE) else None,
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
        "scaling": pair.scaling,
    }
