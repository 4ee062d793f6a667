"""SP306: one block, or one matrix outside of the blocks, carries most of the update."""

from typing import TYPE_CHECKING, NamedTuple

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.metrics.status import OK, ZERO
from spectra.text import count, numbered, percent, show

if TYPE_CHECKING:
    from spectra.metrics.layer import Layer

_CARRIES = 0.5  # of the energy. The largest share in the models looked at is 0.39, of a pooler under a new head
_FEWEST = 4  # layers: of three, one easily has half
_OVER = 3  # times its share of the entries: a large embedding holds much because it is large


class _Part(NamedTuple):
    """A layer, its rows, and its share of the energy and of the entries of all layers."""

    name: str
    rows: "list[Layer]"
    energy: float
    entries: float


def _check(evidence: Evidence) -> list[Raised]:
    parts = _parts([layer for layer in evidence.layers if layer.status in (OK, ZERO) and layer.norm is not None])
    if len(parts) < _FEWEST:
        return []
    first = max(parts, key=lambda part: part.energy)
    if first.energy < _CARRIES or first.energy < _OVER * first.entries:
        return []
    return [
        Raised(
            "info",
            f"{show(first.name)} carries {percent(first.energy)} of the update's energy, with "
            f"{percent(first.entries)} of the entries of {count(len(parts), 'layer')}.",
            "Numbers that are summed over the model speak of this layer. If training was meant to change all of it, "
            "check the learning rate of this layer's parameters and whether a new head sits on it.",
            [layer for layer in first.rows if layer.ok],
            {"layer": show(first.name), "energy": first.energy, "entries": first.entries, "layers": len(parts)},
        )
    ]


def _parts(known: "list[Layer]") -> list[_Part]:
    groups: dict[str, list[Layer]] = {}
    for layer in known:
        where = layer.place
        name = f"{where.stack}.{where.block}" if where.block is not None else numbered(layer.key, layer.index)
        groups.setdefault(name, []).append(layer)
    energy, entries = sum(map(_energy, known)), sum(layer.shape[0] * layer.shape[1] for layer in known)
    if not energy:
        return []
    return [
        _Part(
            name,
            rows,
            sum(map(_energy, rows)) / energy,
            sum(layer.shape[0] * layer.shape[1] for layer in rows) / entries,
        )
        for name, rows in groups.items()
    ]


def _energy(layer: "Layer") -> float:
    return layer.norm.update**2 if layer.norm is not None else 0.0


ONE_LAYER = Rule(
    code="SP306",
    name="one-layer",
    summary="One block, or one matrix outside of the blocks, carries most of the update.",
    severities=("info",),
    meaning=f"One block, or one matrix outside of the blocks, holds {percent(_CARRIES)} or more of the energy of the "
    f"whole update (the sum of ||dW||_F^2), and at least {_OVER} times its share of the entries. Said where at least "
    f"{_FEWEST} layers are compared; matrices that did not change count, with no energy.",
    advice="Read the other layers by themselves, relative to their own weights. If the whole model was to be trained, "
    "check parameter groups and learning rates; a layer under a new head takes large gradients at first.",
    doubts="Energy adds up over entries and is not relative to W0: a layer of large weights moves further. Matrices "
    "that could not be measured are missing from the sum.",
    source="sum of ||dW||_F^2 over a layer, over the sum over all; threshold of this tool",
    check=_check,
)
