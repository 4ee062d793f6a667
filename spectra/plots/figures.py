"""The table of figures, and which of them a result has."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from spectra.analysis.comparison import ModelComparison
from spectra.analysis.diagnosis import Diagnosis
from spectra.analysis.overlap import ModelOverlap
from spectra.analysis.sweep import ModelSweep
from spectra.errors import MachineError
from spectra.metrics.layer import Layer
from spectra.plots.arrange import measured
from spectra.plots.critical_scales import critical_scales
from spectra.plots.epsilon import epsilon
from spectra.plots.intruder_map import intruder_map
from spectra.plots.law import law
from spectra.plots.overlap import overlap_by_block, overlap_map
from spectra.plots.phase_curve import phase_curve
from spectra.plots.rank import rank
from spectra.plots.similarity import similarity_panels
from spectra.plots.spectrum import spectrum
from spectra.plots.style import figure_of, require_format, save
from spectra.plots.update_size import update_size
from spectra.text import show


@dataclass(frozen=True, slots=True)
class Plot:
    """draw : its function; caption : what it shows and how to read it, as a reader of the page needs it."""

    draw: Callable[..., Axes | Figure]
    caption: str


FIGURES: dict[str, Plot] = {
    "intruders": Plot(
        intruder_map,
        "Intruders of each block (line) and kind of module (column): the number in the cell, its share of the "
        "directions examined as the shade. Hatched: fine-tuning touched no such matrix; a dash: not measured or "
        "unchanged.",
    ),
    "spectrum": Plot(
        spectrum,
        "Singular values of base, tuned weight and update, in the matrix with most intruders. An update that rises "
        "above the base's curve can put directions of its own among the leading ones.",
    ),
    "similarity": Plot(
        similarity_panels,
        "Similarity of each leading tuned direction (column) to each leading base direction (row). A dark diagonal "
        "means that they survived. Above: the best match of each tuned direction over all base directions, those "
        "beyond the rows shown too; orange below the dashed line is an intruder, the dotted line is what chance gives. "
        "All columns drawn are judged here; the counts of the report take the first k.",
    ),
    "epsilon": Plot(
        epsilon,
        "Share of leading directions that count as intruders at each threshold. Dashed: the threshold used; grey "
        "ticks: the similarity of a random direction, where a count means nothing.",
    ),
    "rank": Plot(
        rank,
        "Effective rank of each update, one point a matrix, by kind of module. The bar is the rank the adapter was "
        "given; full fine-tuning has none.",
    ),
    "update-size": Plot(
        update_size,
        "Size of each update relative to its base weight, by block, in Frobenius norms.",
    ),
    "phase-curve": Plot(
        phase_curve,
        "Above: intruders of all matrices as the update is scaled, stacked by kind; dashed: as trained. Below: the "
        "least similar leading direction of each matrix (thin) and the median of all; below the dashed line is an "
        "intruder.",
    ),
    "critical-scales": Plot(
        critical_scales,
        "Scale of the update at which the first intruder of each block (line) and kind of module (column) appears. "
        "Orange: before the scale it was trained to; blue: beyond it; >: none up to the largest scale.",
    ),
    "law": Plot(
        law,
        "Critical scale predicted by the threshold law against the exact one, one point a matrix; on the line it is "
        "right, in the band within a factor of two. Hollow: no crossing up to the largest scale.",
    ),
    "overlap": Plot(
        overlap_map,
        "Similarity of the i leading directions of one update with the j of another, in the matrix where they are most "
        "alike: 1 where the fewer lie within the others. Dark in one corner alone: the strongest directions agree, the "
        "rest is each run's own.",
    ),
    "overlap-by-block": Plot(
        overlap_by_block,
        "Share of their leading directions that two updates have in common, the median of each block; dotted: what "
        "random directions of that number share.",
    ),
}


def report_figures(report: Diagnosis, *, without: Sequence[str] = ()) -> dict[str, Figure]:
    """Draw every figure that a diagnosis has data for, but those named in `without`."""
    rows = measured(report)
    if not rows:
        return {}
    reports = {report.info.method: report}
    drawn = {"intruders": report, "spectrum": max(rows, key=telling), "epsilon": reports, "rank": reports}
    return _draw({name: given for name, given in (drawn | _sized(reports)).items() if name not in without})


def comparison_figures(comparison: ModelComparison) -> dict[str, Figure]:
    """Draw every figure that a comparison has data for: the similarity maps of one matrix, then models together."""
    models = {name: model for name, model in comparison.models.items() if measured(model)}
    if not models:
        return {}
    drawn: dict[str, Any] = {"epsilon": models, "rank": models, **_sized(models)}
    threshold = next(iter(models.values())).provenance["epsilon"]
    maps = {"similarity": comparison.maps} if comparison.maps else {}
    return _draw(maps, epsilon=threshold) | _draw(drawn)


def sweep_figures(sweep: ModelSweep, *, without: Sequence[str] = ()) -> dict[str, Figure]:
    """Draw every figure that a sweep has data for, but those named in `without`."""
    if not sweep.measured:
        return {}
    known = any(row.law is not None for row in sweep.measured)
    names = ("phase-curve", "critical-scales", *(("law",) if known else ()))
    return _draw({name: sweep for name in names if name not in without})


def overlap_figures(found: ModelOverlap) -> dict[str, Figure]:
    """Draw every figure that an overlap has data for: the map of the matrix most alike, and all blocks together."""
    row = found.most_alike
    if row is None:
        return {}
    return _draw({"overlap": row}, labels=found.labels) | _draw({"overlap-by-block": found})


def telling(layer: Layer) -> tuple[int, float]:
    """How much a row has to tell: most intruders and, among those, the least similar direction."""
    return layer.found, -min(_similarities(layer), default=1.0)


def _similarities(layer: Layer) -> list[float]:
    return [value for side in layer.intruders for value in side.similarity]


def _sized(reports: Mapping[str, Diagnosis]) -> dict[str, Any]:
    known = any(
        layer.norm and 0 < layer.norm.ratio < float("inf") for report in reports.values() for layer in measured(report)
    )
    return {"update-size": reports} if known else {}


def _draw(drawn: Mapping[str, Any], **options: Any) -> dict[str, Figure]:
    figures: dict[str, Figure] = {}
    for name, given in drawn.items():
        plot = FIGURES[name]
        with matplotlib.style.context("default"):
            made = plot.draw(given, **options)
        figure = made if isinstance(made, Figure) else figure_of(made)
        figure.set_label(plot.caption)
        figures[name] = figure
    return figures


def save_figures(figures: Mapping[str, Figure], folder: str | Path, formats: Sequence[str]) -> list[Path]:
    """Write figures under their own names, in each format; return the paths.

    Raises UsageError for an unknown format, before anything is written, and MachineError for a folder that
    cannot be made.
    """
    wanted = [require_format(form) for form in dict.fromkeys(formats)]
    target = Path(folder)
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as fault:
        raise MachineError(f"'{show(target)}' cannot be made: {fault.strerror or fault}.") from None
    paths = []
    for name, figure in figures.items():
        for form in wanted:
            save(figure, path := target / f"{name}.{form}", form)
            paths.append(path)
    return paths
