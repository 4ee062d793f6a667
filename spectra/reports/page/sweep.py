"""The page of a sweep: at which scale of the update its intruders begin, matrix by matrix."""

import math
from collections.abc import Sequence

from spectra.analysis.sweep import ModelSweep
from spectra.metrics.phase import PhaseCurve
from spectra.plots.figures import sweep_figures
from spectra.reports import words
from spectra.reports.page.block_map import Measure, block_map
from spectra.reports.page.document import render
from spectra.reports.page.gallery import pictures
from spectra.reports.page.sheet import Cell, Column, heat, sheet
from spectra.reports.sweep import advice, headline, law_line
from spectra.text import percent, show

_ELSEWHERE = ("critical-scales",)  # the page draws this map itself


def sweep_page(found: ModelSweep) -> str:
    """Return a sweep as a complete HTML page."""
    rows = found.rows
    return render(
        "sweep.html",
        found.to_dict(),
        found.provenance,
        base=show(found.provenance["base"]["label"]),
        tuned=show(found.provenance["tuned"]["label"]),
        kind=words.kind(found.info),
        headline=headline(found),
        advice=advice(found) if found.measured else "",
        facts=_facts(found) if found.measured else [],
        map=block_map(rows, [_critical_scale(found.scales[-1])]),
        figures=pictures(sweep_figures(found, without=_ELSEWHERE)),
        sheet=sheet(rows, _COLUMNS),
        skipped=words.skipped_by_reason(found.skipped),
    )


def _facts(found: ModelSweep) -> list[tuple[str, str, str]]:
    summary, options = found.summary, found.provenance
    middle = summary["critical_median"]
    return [
        ("matrices", str(len(found.measured)), f"of {len(found.rows)} swept at {len(found.scales)} scales"),
        (
            "intruders as trained",
            f"{summary['count']} of {summary['examined']}",
            f"{summary['new']} new, {summary['rotated']} rotated, {summary['degenerate']} degenerate; "
            f"k = {options['k']}, epsilon = {options['epsilon']:g}, {options['side']} vectors",
        ),
        (
            "critical scale",
            "none" if middle is None else f"{middle:.3g}",
            f"median of the {summary['crossed']} matrices that meet an intruder up to scale {found.scales[-1]:g}",
        ),
        ("threshold law", percent(share) if (share := found.law.share) is not None else "none", law_line(found)),
    ]


def _critical(row: PhaseCurve) -> Cell:
    if row.critical is None:
        return Cell(f"above {row.scales[-1]:g}", math.inf)
    return Cell(f"{row.critical:.4f}", row.critical, heat(1 - row.critical / row.scales[-1]))


_COLUMNS: tuple[Column[PhaseCurve], ...] = (
    Column(
        "critical scale",
        "The smallest scale found at which a direction is rotated or new; 1 is as trained.",
        _critical,
    ),
    Column(
        "by the law",
        "What the threshold law predicts for it.",
        lambda row: Cell(f"{row.law.critical:.3g}", row.law.critical) if row.law else None,
    ),
    Column(
        "law / found",
        "The one over the other: 1 where the law is right.",
        lambda row: Cell(f"{row.error:.2f}", row.error) if row.error is not None else None,
    ),
    Column("intruders at 1", "Of the leading directions, as trained.", lambda row: Cell(str(row.at(1.0)), row.at(1.0))),
    Column(
        "re-entries",
        "How often the intruders vanish at some scale looked at and enter again. Finer scales may show more.",
        lambda row: Cell(str(len(row.intervals) - 1), len(row.intervals) - 1) if len(row.intervals) > 1 else None,
    ),
)


def _critical_scale(largest: float) -> Measure[PhaseCurve]:
    def cell(rows: Sequence[PhaseCurve]) -> Cell | None:
        known = [row.critical for row in rows if row.critical is not None]
        return Cell(f"{min(known):.2f}", min(known)) if known else Cell(f"> {largest:g}", largest)

    return Measure(
        "critical scale",
        cell,
        lambda scale, *_: 1 - scale / largest,
        lambda *_: (f"none up to {largest:g}", "0: at once"),
    )
