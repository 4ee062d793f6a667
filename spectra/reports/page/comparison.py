"""The page of a comparison: which model is most like full fine-tuning, what that shows and what it does not."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from spectra.analysis.comparison import ModelComparison
from spectra.analysis.diagnosis import Diagnosis
from spectra.metrics.layer import Layer
from spectra.metrics.place import Place
from spectra.metrics.status import OK
from spectra.plots.figures import comparison_figures
from spectra.reports import words
from spectra.reports.page.block_map import Measure, block_map, share_of_intruders
from spectra.reports.page.document import render
from spectra.reports.page.findings import noted
from spectra.reports.page.gallery import pictures
from spectra.reports.page.sheet import Cell, Column, codes_of, heat, sheet
from spectra.reports.page.small_spectra import compared_spectra
from spectra.text import show


@dataclass(frozen=True, slots=True)
class _Compared:
    """One matrix in every model that changes it. positions : of its row in each of them."""

    first: Layer
    layers: Mapping[str, Layer]
    positions: tuple[tuple[str, int], ...]

    @property
    def key(self) -> str:
        return self.first.key

    @property
    def index(self) -> int | None:
        return self.first.index

    @property
    def place(self) -> Place:
        return self.first.place

    @property
    def shape(self) -> tuple[int, int]:
        return self.first.shape

    @property
    def ok(self) -> bool:
        return any(layer.ok for layer in self.layers.values())

    @property
    def status(self) -> str:
        return OK if self.ok else self.first.status

    @property
    def reason(self) -> str:
        reasons = {name: layer.reason for name, layer in self.layers.items() if layer.reason}
        return "; ".join(f"{name}: {reason}" for name, reason in reasons.items())


def comparison_page(found: ModelComparison) -> str:
    """Return a comparison as a complete HTML page."""
    first = next(iter(found.models.values()))
    rows = _matrices(found.models)
    layers = [{name: row.layers[name] for name in found.models if name in row.layers} for row in rows]
    return render(
        "comparison.html",
        found.to_dict(),
        first.provenance,
        base=show(first.provenance["base"]["label"]),
        found=found,
        kinds={name: words.kind(model.info) for name, model in found.models.items()},
        listed=[(standing.name, words.place_and_numbers(found, standing)) for standing in found.standings],
        told=words.told(found),
        known_by=words.known_by,
        findings={name: noted(model.findings, rows) for name, model in found.models.items() if model.findings},
        map=block_map(rows, [_measure(name) for name in found.models]),
        spectra=compared_spectra(tuple(found.models), layers),
        figures=pictures(comparison_figures(found)),
        sheet=sheet(
            rows,
            _columns(found.models),
            codes=codes_of({name: model.findings for name, model in found.models.items()}),
            positions=[row.positions for row in rows],
        ),
        skipped={name: words.skipped_by_reason(model.skipped) for name, model in found.models.items() if model.skipped},
    )


def _matrices(models: Mapping[str, Diagnosis]) -> list[_Compared]:
    """Every matrix that some model changes, in the order they are met, with its row in each model."""
    held: dict[tuple[str, int | None], dict[str, tuple[int, Layer]]] = {}
    for name, model in models.items():
        for position, layer in enumerate(model.rows):
            held.setdefault((layer.key, layer.index), {})[name] = position, layer
    return [
        _Compared(
            next(iter(found.values()))[1],
            {name: layer for name, (_, layer) in found.items()},
            tuple((name, position) for name, (position, _) in found.items()),
        )
        for found in held.values()
    ]


def _columns(models: Mapping[str, Diagnosis]) -> list[Column[_Compared]]:
    meaning = "Intruders among its leading directions; below, the effective rank of its update and ‖ΔW‖ / ‖W₀‖."
    return [Column(show(name, 32), meaning, _cell_of(name)) for name in models]


def _cell_of(name: str) -> Callable[[_Compared], Cell | None]:
    def cell(row: _Compared) -> Cell | None:
        layer = row.layers.get(name)
        if layer is None:
            return Cell("not adapted", None)
        if not layer.ok or layer.rank is None or layer.norm is None:
            return Cell(layer.status, None)
        share = layer.found / layer.examined if layer.examined else 0.0
        below = f"rank {words.rank_value(layer.rank, 'effective')}, size {layer.norm.ratio:.3g}"
        return Cell(f"{layer.found} of {layer.examined}", share, heat(share), below)

    return cell


def _measure(name: str) -> Measure[_Compared]:
    """The intruders of one model on the map."""

    return share_of_intruders(
        f"intruders of {show(name, 32)}", lambda rows: [row.layers[name] for row in rows if name in row.layers]
    )
