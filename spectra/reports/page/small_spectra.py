"""Small spectra: one tiny drawing a matrix, all on the same axes, so that the eye finds the one that differs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from spectra.metrics.layer import Layer
from spectra.plots.elements import power
from spectra.plots.figures import telling
from spectra.plots.style import CATEGORIES
from spectra.reports import words
from spectra.text import count

WIDTH, HEIGHT = 320, 200  # of the drawing box, in its own units
_LOWEST = 1e-7  # of the base's largest value: what is smaller is the rounding of a float32 decomposition
_TAIL = 0.02  # of all values may lie below the drawing: the last values of a base fall without end
_OPEN = 12
Points = Sequence[tuple[int, float]]


@dataclass(frozen=True, slots=True)
class Curve:
    """name : the class that colours it; path : the data of an SVG path."""

    name: str
    path: str


@dataclass(frozen=True, slots=True)
class Panel:
    """One matrix. number : of its line in the table; spoken : for a screen reader; floor : its height, or None."""

    number: int
    title: str
    note: str
    spoken: str
    curves: tuple[Curve, ...]
    floor: int | None


@dataclass(frozen=True, slots=True)
class SmallSpectra:
    """first : the most telling panels; rest : the others. Ticks : (position, label). legend : (class, name)."""

    first: tuple[Panel, ...]
    rest: tuple[Panel, ...]
    x_ticks: tuple[tuple[int, str], ...]
    y_ticks: tuple[tuple[int, str], ...]
    legend: tuple[tuple[str, str], ...]
    floors: bool
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A matrix before it is laid out: its values by curve, the base first, and the value that counts as one."""

    number: int
    layer: Layer
    note: str
    values: Mapping[str, Points]
    unit: float


@dataclass(frozen=True, slots=True)
class _Axes:
    """Both logarithmic: index from 1 to `last`; values, as shares of the base's largest, from `low` to `high`."""

    last: int
    low: float
    high: float

    def x(self, index: int) -> int:
        return round(WIDTH * math.log(index) / math.log(self.last))

    def y(self, share: float) -> int:
        return round(HEIGHT * math.log(self.high / share) / math.log(self.high / self.low))

    def path(self, points: Points, unit: float) -> str:
        """Return the path of the points that lie on the axes: one move, then steps from point to point."""
        at = [(self.x(index), self.y(value / unit)) for index, value in points if value / unit >= self.low]
        steps = [(x - before[0], y - before[1]) for before, (x, y) in pairwise(at)]
        moved = [f"{dx} {dy}" for dx, dy in steps if dx or dy]
        return f"M{at[0][0]} {at[0][1]}" + ("l" + " ".join(moved) if moved else "h.1") if at else ""


def small_spectra(rows: Sequence[Layer]) -> SmallSpectra | None:
    """Draw base, tuned weight and update of every measured matrix, the one with most intruders first.

    None where no spectrum is known.
    """
    drawn = []
    for number, layer in enumerate(rows):
        found = layer.spectrum
        if layer.ok and found is not None:
            kinds = {"base": found.base, "tuned": found.tuned, "update": found.update}
            values = {name: tuple(zip(found.index, part, strict=False)) for name, part in kinds.items()}
            note = count(layer.found, "intruder") if layer.found else ""
            drawn.append(_Drawn(number, layer, note, values, _unit(values)))
    drawn.sort(key=lambda item: telling(item.layer), reverse=True)
    return _laid_out(drawn, (("base", "base W₀"), ("tuned", "tuned W"), ("update", "update ΔW")))


def compared_spectra(models: Sequence[str], matrices: Sequence[Mapping[str, Layer]]) -> SmallSpectra | None:
    """Draw the base of each matrix once, and the update of every model to it.

    models : their names; matrices : in base order, the measured rows of each by model.
    """
    drawn = []
    for number, layers in enumerate(matrices):
        known = {name: layer.spectrum for name, layer in layers.items() if layer.ok and layer.spectrum is not None}
        if known:
            first = next(iter(known.values()))
            parts = {"ground": (first.index, first.base)} | {
                _colour(models.index(name)): (found.index, found.update) for name, found in known.items()
            }
            values = {name: tuple(zip(index, part, strict=False)) for name, (index, part) in parts.items()}
            worst = max((layers[name] for name in known), key=telling)
            drawn.append(_Drawn(number, worst, "", values, _unit(values)))
    drawn.sort(key=lambda item: telling(item.layer), reverse=True)
    return _laid_out(drawn, (("ground", "base W₀"), *((_colour(place), name) for place, name in enumerate(models))))


def _unit(values: Mapping[str, Points]) -> float:
    """The base's largest value; of what there is where the base's are not known."""
    tops = {name: max((value for _, value in points), default=0.0) for name, points in values.items()}
    return next(iter(tops.values())) or max(tops.values())


def _colour(place: int) -> str:
    """The class of a model: the same colours, in the same order, as in the figures."""
    return f"c{place % len(CATEGORIES)}"


def _laid_out(drawn: Sequence[_Drawn], legend: tuple[tuple[str, str], ...]) -> SmallSpectra | None:
    drawn = [item for item in drawn if item.unit > 0]
    if not drawn:
        return None
    points = [
        (index, share) for item in drawn for part in item.values.values() for index, value in part
        if (share := value / item.unit) > _LOWEST
    ]  # fmt: skip
    shares = sorted(share for _, share in points)
    axes = _Axes(
        last=max(2, *(index for index, _ in points)),
        low=shares[int(_TAIL * len(shares))] / 1.5,
        high=shares[-1] * 1.5,
    )
    panels = [_panel(item, axes) for item in drawn]
    decades = range(math.floor(math.log10(axes.high)), math.ceil(math.log10(axes.low)) - 1, -1)
    every = max(1, -(-len(decades) // 4))
    return SmallSpectra(
        first=tuple(panels[:_OPEN]),
        rest=tuple(panels[_OPEN:]),
        x_ticks=tuple((axes.x(10**power_), f"{10**power_:,}") for power_ in range(len(str(axes.last)))),
        y_ticks=tuple((axes.y(10.0**decade), power(10.0**decade)) for decade in decades[::every]),
        legend=legend,
        floors=any(panel.floor is not None for panel in panels),
    )


def _panel(item: _Drawn, axes: _Axes) -> Panel:
    layer, update = item.layer, item.layer.norm.update_spectral if item.layer.norm else 0.0
    edge = layer.floor.edge / item.unit if layer.floor else 0.0
    return Panel(
        number=item.number,
        title=words.where(layer),
        note=item.note,
        spoken=f"Singular values of {words.where(layer)}: base up to {item.unit:.3g}, update up to {update:.3g}",
        curves=tuple(
            Curve(name, path) for name, points in item.values.items() if (path := axes.path(points, item.unit))
        ),
        floor=axes.y(edge) if axes.low <= edge <= axes.high else None,
    )
