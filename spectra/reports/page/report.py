"""The page of a diagnosis: verdict, findings, numbers, the map, spectra, figures, every matrix."""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from spectra.analysis.diagnosis import Diagnosis
from spectra.metrics.layer import Layer
from spectra.plots.figures import report_figures
from spectra.reports import words
from spectra.reports.page.block_map import Measure, block_map, share_of_intruders
from spectra.reports.page.document import render
from spectra.reports.page.findings import counted, noted
from spectra.reports.page.gallery import pictures
from spectra.reports.page.sheet import Cell, Column, codes_of, heat, number, sheet
from spectra.reports.page.small_spectra import small_spectra
from spectra.text import percent, quantity, show, size

_Cell = Callable[[Layer], Cell | None]
_ELSEWHERE = ("intruders", "spectrum")  # figures that the page draws itself: the map and the small spectra


def report_page(report: Diagnosis) -> str:
    """Return a diagnosis as a complete HTML page."""
    rows = report.rows
    return render(
        "report.html",
        report.to_dict(),
        report.provenance,
        base=show(report.provenance["base"]["label"]),
        tuned=show(report.provenance["tuned"]["label"]),
        kind=words.kind(report.info),
        named=report.info.base_named,
        headline=words.headline(report),
        findings=noted(report.findings, rows),
        nothing=words.nothing_found(report),
        counted=counted(report.findings),
        facts=_facts(report),
        map=block_map(rows, _MEASURES if report.summary["intruders"] else _MEASURES[::-1]),  # the telling one first
        spectra=small_spectra(rows),
        figures=pictures(report_figures(report, without=_ELSEWHERE)),
        sheet=sheet(rows, _COLUMNS, codes=codes_of({"": report.findings})),
        skipped=words.skipped_by_reason(report.skipped),
    )


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
            ("rank of ΔW", f"{found['effective_rank']:.1f}", words.rank_line(report)),
            ("size of ΔW", f"{found['update_ratio']:.3g}", words.size_line(report)),
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


def _intruders(layer: Layer) -> Cell | None:
    if not layer.examined:
        return None
    share = layer.found / layer.examined
    return Cell(f"{layer.found} of {layer.examined}", share, heat(share))


def _kind(name: str) -> _Cell:
    def cell(layer: Layer) -> Cell | None:
        found = sum(getattr(side, name) for side in layer.intruders)
        return Cell(str(found), found) if layer.examined else None

    return cell


def _degenerate(layer: Layer) -> Cell | None:
    found = sum(side.degenerate for side in layer.intruders)
    return Cell(str(found), found) if found else None


def _least(layer: Layer) -> Cell | None:
    least = min((value for side in layer.intruders for value in side.similarity), default=None)
    return None if least is None else Cell(words.least_similarity(layer), least)


def _chance(layer: Layer) -> Cell | None:
    null = max((side.null for side in layer.intruders), default=None)
    return None if null is None else Cell(f"{null:.2f}", null)


def _energy(layer: Layer) -> Cell | None:
    share = max((side.energy_share for side in layer.intruders), default=None)
    return None if share is None else Cell(percent(share), share)


def _rank(name: str) -> _Cell:
    def cell(layer: Layer) -> Cell | None:
        found = getattr(layer.rank, name) if layer.rank else None
        return None if layer.rank is None or found is None else Cell(words.rank_value(layer.rank, name), found)

    return cell


def _used(layer: Layer) -> Cell | None:
    rank = layer.rank
    if rank is None or rank.utilisation is None:
        return None
    return Cell(percent(rank.utilisation), rank.utilisation)


def _size(layer: Layer) -> Cell | None:
    return number(layer.norm.ratio) if layer.norm else None


_COLUMNS: tuple[Column[Layer], ...] = (
    Column(
        "intruders",
        "Leading directions of the tuned weight less similar than epsilon to every direction of the base, of those "
        "compared (the paper's count).",
        _intruders,
    ),
    Column("new", "Intruders mostly outside the base's leading directions.", _kind("new")),
    Column("rotated", "Intruders mostly within them: mixtures of what was there.", _kind("rotated")),
    Column("tied", "Counted ones that equal singular values explain: arbitrary, not intruders.", _degenerate),
    Column(
        "least similar", "The smallest similarity of any leading direction; an interval where it is not exact.", _least
    ),
    Column("by chance", "The similarity that a random direction would have: near it, a count means nothing.", _chance),
    Column("energy", "Share of the update's energy that lies on its intruders.", _energy),
    Column("effective rank", "exp of the entropy of the update's singular values.", _rank("effective")),
    Column("used", "Effective rank over the rank that the adapter was given.", _used),
    Column("90\u00a0%", "Fewest directions that hold 90 % of the update's energy.", _rank("energy_90")),
    Column(
        "above rounding",
        "Singular values of the update above what rounding, in the files or in the computation, makes by itself. "
        "Unknown where weights are stored packed.",
        _rank("above_floor"),
    ),
    Column("size", "‖ΔW‖ / ‖W₀‖: the update beside its weight, in Frobenius norms.", _size),
)


def _over(cell: _Cell, choose: Callable[[list[Cell]], Cell]) -> Callable[[Sequence[Layer]], Cell | None]:
    """A place of the map from the cells of its matrices: the one that stands for all of them."""

    def over(rows: Sequence[Layer]) -> Cell | None:
        known = [found for row in rows if (found := cell(row)) is not None and found.value is not None]
        return choose(known) if known else None

    return over


def _value(cell: Cell) -> float:
    assert cell.value is not None
    return cell.value


def _smallest(cells: list[Cell]) -> Cell:
    return min(cells, key=_value)


def _largest(cells: list[Cell]) -> Cell:
    return max(cells, key=_value)


def _middle(cells: list[Cell]) -> Cell:
    value = statistics.median(map(_value, cells))
    return cells[0] if len(cells) == 1 else Cell(f"{value:.1f}", value)


def _log_shade(value: float, low: float, high: float) -> float:
    """0.1 for the least to 1 for the largest, by their logarithms."""
    if value <= 0 or math.isinf(value):
        return float(value > 0)
    span = math.log(high / low) if 0 < low < high < math.inf else 0.0
    return 1.0 if not span else 0.1 + 0.9 * math.log(value / low) / span


_MEASURES: tuple[Measure[Layer], ...] = (
    share_of_intruders("intruders", lambda rows: rows),
    Measure(
        "least similarity",
        _over(_least, _smallest),
        lambda least, *_: 1 - least,
        lambda *_: ("1: as in the base", "0: resembles nothing"),
    ),
    Measure(
        "energy on intruders",
        _over(_energy, _largest),
        lambda share, *_: share,
        lambda *_: ("none", "all of the update"),
    ),
    Measure(
        "effective rank",
        _over(_rank("effective"), _middle),
        lambda rank, _, high: rank / high if high else 0,
        lambda _, high: ("0", f"{high:.1f}"),
    ),
    Measure(
        "size of ΔW beside W₀",
        _over(_size, _largest),
        _log_shade,
        lambda low, high: (f"{low:.2g}", f"{high:.2g}"),
    ),
)
