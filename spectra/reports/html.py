"""The report as one HTML file: no script, no network, figures inline, a table that reads at 500 rows.

Everything from outside is escaped by the template engine after `show`; the page's own policy
(`default-src 'none'`) forbids it to load or run anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from spectra import __version__
from spectra.analysis.comparison import ModelComparison
from spectra.analysis.diagnosis import Diagnosis
from spectra.metrics.layer import OK, Layer
from spectra.plots.figures import comparison_figures, report_figures
from spectra.plots.style import to_svg
from spectra.reports import words
from spectra.text import numbered, percent, quantity, show, size

_OPEN_ROWS = 120
_COLUMN = 4.0  # inches: a wider figure takes the whole page
_HOW_TO_READ = {
    "intruders": (
        "Where the intruders sit",
        "Each cell counts the intruders of one kind of module in one block. A dark column is a kind of module that "
        "changed its leading directions everywhere, a dark row is a block that did.",
    ),
    "epsilon": (
        "Intruders against epsilon",
        "The share of leading directions whose similarity to the base is below epsilon. A curve that rises early means "
        "directions that resemble nothing in the base; one that rises only near 1 means small rotations. The dashed "
        "line is the epsilon of the counts (paper, Fig. 4).",
    ),
    "spectrum": (
        "Singular values of base, tuned weight and update",
        "One matrix, the one with most intruders. Where the update's values rise above the base's, it sets the leading "
        "directions. Below the dashed floor an update cannot be told from rounding.",
    ),
    "rank": (
        "Intrinsic rank of the update",
        "The effective rank of dW, exp of the entropy of its singular values, one mark a matrix. The line is the rank "
        "that was allotted: marks far below it are rank not used.",
    ),
    "update-size": (
        "Size of the update",
        "The norm of dW beside that of its weight, by block. A block that stands out carries the fine-tuning.",
    ),
    "similarity": (
        "Similarity of leading directions, tuned against base",
        "A bright diagonal means that a direction kept its place. A column without a bright cell, dark in the strip "
        "above too, is an intruder (paper, Figs. 1 and 2).",
    ),
}


@dataclass(frozen=True, slots=True)
class _Shown:
    """A figure ready for the page."""

    title: str
    reading: str
    svg: Markup
    wide: bool


def report_page(report: Diagnosis) -> str:
    """Return a diagnosis as a complete HTML page."""
    return _render(
        "report.html",
        title=f"{show(report.provenance['base']['label'])} → {show(report.provenance['tuned']['label'])}",
        report=report,
        headline=words.headline(report),
        kind=words.kind(report.info),
        facts=_facts(report),
        figures=_figures(report_figures(report)),
        groups=_groups(report.rows),
        open_groups=len(report.rows) <= _OPEN_ROWS,
        skipped=words.skipped_by_reason(report.skipped),
        provenance=_flat(report.provenance),
    )


def comparison_page(found: ModelComparison) -> str:
    """Return a comparison as a complete HTML page."""
    first = next(iter(found.models.values()))
    return _render(
        "comparison.html",
        title=f"{show(first.provenance['base']['label'])}: {len(found.models)} ways of fine-tuning",
        found=found,
        models=found.models,
        headline=_comparison_headline(found),
        figures=_figures(comparison_figures(found)),
        matrix=found.matrix,
        groups=_compared(found.models),
        open_groups=sum(len(model.rows) for model in found.models.values()) <= _OPEN_ROWS,
        kinds={name: words.kind(model.info) for name, model in found.models.items()},
        provenance=_flat(first.provenance),
    )


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("spectra.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["show"] = lambda value: show(value, None)
    environment.filters["percent"] = percent
    return environment.get_template(template).render(version=__version__, **values)


def _figures(figures: Mapping[str, Figure]) -> list[_Shown]:
    return [
        _Shown(*_HOW_TO_READ.get(name, (name, "")), Markup(to_svg(figure, name)), figure.get_figwidth() > _COLUMN)  # noqa: S704
        for name, figure in figures.items()
    ]


def _facts(report: Diagnosis) -> list[tuple[str, str, str]]:
    """The numbers at the top: what, how much, in what terms."""
    found, options = report.summary, report.provenance
    parameters = found["parameters"]
    facts = [("matrices", str(found["measured"]), _status_line(found))]
    if found["measured"]:
        facts += [
            (
                "intruders",
                f"{found['intruders']} of {found['examined']}",
                f"{found['new']} new, {found['rotated']} rotated, {found['degenerate']} degenerate; "
                f"k = {options['k']}, epsilon = {options['epsilon']:g}, {options['side']} vectors; "
                f"a random direction has similarity {words.chance(report)}",
            ),
            ("rank of dW", f"{found['effective_rank']:.1f}", words.rank_line(report)),
            ("size of dW", f"{found['update_ratio']:.3g}", words.size_line(report)),
        ]
    facts.append(
        (
            "stored",
            quantity(parameters["tuned"]),
            f"{words.stored(report)}; the base has {quantity(parameters['base'])} parameters, "
            f"{size(found['bytes']['base'])}",
        )
    )
    return facts


def _status_line(found: Mapping[str, Any]) -> str:
    return f"of {found['matrices']} changed; {found['zero_updates']} with a zero update, {found['failed']} failed"


@dataclass(frozen=True, slots=True)
class _Group:
    """The rows of one block, with what its heading says."""

    name: str
    rows: tuple[Any, ...]
    intruders: int
    examined: int
    troubled: bool


def _by_block(rows: Sequence[Layer]) -> dict[str, list[Layer]]:
    groups: dict[tuple[bool, str, int], list[Layer]] = {}
    for layer in rows:
        found = layer.place
        groups.setdefault((found.block is None, found.stack, found.block or 0), []).append(layer)
    names = {(stack, block): f"{stack}.{block}" for _, stack, block in groups}
    return {
        "outside the blocks" if outside else names[stack, block]: groups[outside, stack, block]
        for outside, stack, block in sorted(groups)
    }


def _groups(rows: Sequence[Layer]) -> list[_Group]:
    return [
        _Group(
            show(name),
            tuple(_cells(layer) for layer in layers),
            sum(layer.found for layer in layers),
            sum(layer.examined for layer in layers),
            any(not layer.ok for layer in layers),
        )
        for name, layers in _by_block(rows).items()
    ]


def _cells(layer: Layer) -> dict[str, Any]:
    rank, norm = layer.rank, layer.norm
    return {
        "module": show(numbered(layer.place.module, layer.index)),
        "key": show(numbered(layer.key, layer.index), None),
        "shape": f"{layer.shape[0]} × {layer.shape[1]}",
        "status": layer.status,
        "reason": show(layer.reason, None),
        "ok": layer.status == OK,
        "intruders": layer.found,
        "examined": layer.examined,
        "heat": min(5, -(-5 * layer.found // layer.examined)) if layer.examined else 0,
        "new": sum(side.new for side in layer.intruders),
        "rotated": sum(side.rotated for side in layer.intruders),
        "degenerate": sum(side.degenerate for side in layer.intruders),
        "least": words.least_similarity(layer),
        "null": f"{max((side.null for side in layer.intruders), default=0.0):.2f}" if layer.intruders else "",
        "energy": percent(max((side.energy_share for side in layer.intruders), default=0.0)) if layer.ok else "",
        "effective": words.rank_value(rank, "effective") if rank else "",
        "allotted": str(rank.allotted) if rank and rank.allotted else "",
        "energy_90": words.rank_value(rank, "energy_90") if rank else "",
        "above_floor": words.rank_value(rank, "above_floor") if rank else "",
        "ratio": f"{norm.ratio:.3g}" if norm else "",
        "notes": [show(note, None) for note in layer.notes],
    }


def _compared(models: Mapping[str, Diagnosis]) -> list[_Group]:
    """Rows of all models by block: one line a matrix, one cell a model."""
    every: dict[tuple[str, int | None], Layer] = {}
    by_model = {name: {(layer.key, layer.index): layer for layer in model.rows} for name, model in models.items()}
    for rows_of in by_model.values():
        every.update({place: layer for place, layer in rows_of.items() if place not in every})
    groups = []
    for name, layers in _by_block(list(every.values())).items():
        rows = []
        for layer in layers:
            cells = [by_model[model].get((layer.key, layer.index)) for model in models]
            rows.append({"head": _cells(layer), "cells": [cell and _cells(cell) for cell in cells]})
        found = [by_model[model].get((layer.key, layer.index)) for layer in layers for model in models]
        known = [cell for cell in found if cell is not None]
        groups.append(
            _Group(
                show(name),
                tuple(rows),
                sum(cell.found for cell in known),
                sum(cell.examined for cell in known),
                any(not cell.ok for cell in known),
            )
        )
    return groups


def _comparison_headline(found: ModelComparison) -> str:
    first, last = found.standings[0], found.standings[-1]
    if len(found.standings) == 1:
        return f"{show(first.name)}: {first.intruders} of {first.examined} leading directions are intruders."
    return (
        f"Fewest intruders: {show(first.name)} ({percent(first.share)} of its leading directions); "
        f"most: {show(last.name)} ({percent(last.share)})."
    )


def _flat(provenance: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for key, value in provenance.items():
        if isinstance(value, Mapping):
            lines += _flat(value, f"{prefix}{key} ")
        elif isinstance(value, list | tuple):
            lines += [(prefix + key, _one_line(item)) for item in value]
        elif value is not None:
            lines.append((prefix + key, show(value, None)))
    return lines


def _one_line(item: Any) -> str:
    if isinstance(item, Mapping):
        return ", ".join(f"{key} {show(value, None)}" for key, value in item.items())
    return show(item, None)
