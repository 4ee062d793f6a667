"""The summary of a sweep that a person reads in ten seconds, on a terminal or as plain text."""

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from spectra.analysis.budget import LINEAR
from spectra.analysis.sweep import ModelSweep
from spectra.metrics.phase import PhaseCurve
from spectra.metrics.status import FAILURES
from spectra.reports import words
from spectra.text import count, percent
from spectra.text import show as safe

_BARS = "▁▂▃▄▅▆▇█"
_MOST_ROWS, _MOST_BARS = 12, 60


def summary(found: ModelSweep) -> RenderableType:
    """Lay out a sweep: what it is, the headline, the total curve, the first matrices to cross, what to do."""
    base, tuned = found.provenance["base"]["label"], found.provenance["tuned"]["label"]
    parts: list[RenderableType] = [
        Text.assemble((safe(base), "bold"), " → ", (safe(tuned), "bold")),
        Text(words.kind(found.info), style="dim"),
        Text(),
        Text(headline(found), style="bold"),
        Text(),
    ]
    if found.measured:
        advised = Padding(Text(f"→ {advice(found)}", style="dim"), (0, 0, 0, 2))
        parts += [_numbers(found), Text(), _first(found), Text(), advised]
    parts += [Text(line, style="dim") for line in _left_out(found)]
    return Group(*parts)


def headline(found: ModelSweep) -> str:
    """The one sentence to take away."""
    rows = found.measured
    if not rows:
        return f"Nothing could be swept: {count(len(found.rows), 'matrix', 'matrices')} failed or did not change."
    crossed = sorted((row for row in rows if row.critical is not None), key=_critical)
    if not crossed:
        return (
            f"No intruder dimensions up to scale {found.scales[-1]:g} in {count(len(rows), 'matrix', 'matrices')}: "
            "the update could be scaled that far."
        )
    early = sum(_critical(row) <= 1 for row in crossed)
    where = f"the first come at scale {_critical(crossed[0]):.3g} ({words.where(crossed[0])})"
    if not early:
        return f"As trained (scale 1) no matrix has met an intruder yet; {where}."
    return f"{early} of {count(len(rows), 'matrix', 'matrices')} meet intruders at or below scale 1; {where}."


def _critical(row: PhaseCurve) -> float:
    return row.critical if row.critical is not None else float("inf")


def _numbers(found: ModelSweep) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    options, summary = found.provenance, found.summary
    unmeasured = len(found.rows) - len(found.measured)
    swept = f"{len(found.measured)} swept" + (f", {unmeasured} not" if unmeasured else "")
    grid.add_row("matrices", f"{swept} at {len(found.scales)} scales ({options['device']}, {options['seconds']:.1f} s)")
    compared = f"k = {options['k']}, epsilon = {options['epsilon']:g}, {options['side']}"
    kinds = ", ".join(f"{summary[kind]} {kind}" for kind in ("new", "rotated", "degenerate") if summary[kind])
    grid.add_row(
        "at scale 1",
        f"{summary['count']} of {summary['examined']} intruders" + (f": {kinds}" if kinds else "") + f" ({compared})",
    )
    grid.add_row("by scale", curve(found.scales, found.total("count")))
    if summary["re_entries"]:
        again = count(summary["re_entries"], "matrix", "matrices")
        grid.add_row("re-entries", f"in {again} they vanish at some scale looked at and enter again")
    grid.add_row("the first", search_line(found))
    grid.add_row("the law", law_line(found))
    return grid


def curve(scales: Sequence[float], counts: Sequence[int]) -> Text:
    """Return the total count against scale as a line of bars, thinned to fit, with its ends named."""
    every = -(-len(counts) // _MOST_BARS)
    shown, top = counts[::every], max(counts)
    line = "".join(_BARS[min(int(number / top * 7.999), 7)] if number else "·" for number in shown)
    return Text.assemble(f"{scales[0]:g} ", (line, "yellow"), f" {scales[-1]:g}   {counts[-1]} at the end")


def search_line(found: ModelSweep) -> str:
    """How sure it is that no first crossing was stepped over, in one line."""
    longest = max(row.resolution for row in found.measured)
    if not longest:
        return "between neighbouring scales, every leading direction was followed up to each first crossing"
    return (
        "followed between neighbouring scales, down to stretches of "
        f"{longest:.1g}: a shorter one with intruders may lie below"
    )


def law_line(found: ModelSweep) -> str:
    """How well the threshold law did, in one line."""
    law = found.law
    if not law.compared or law.share is None or law.ratio is None:
        return "has nothing to be compared with: no crossing was found"
    within = f"within a factor of 2 for {law.within} of {law.compared} ({percent(law.share)})"
    text = f"{within}, median {law.ratio:.2f}x the one found"
    missed = [f"{law.missed} put beyond the range"] if law.missed else []
    invented = [f"{law.invented} predicted and not found"] if law.invented else []
    return "; ".join([text, *missed, *invented])


def _first(found: ModelSweep) -> RenderableType:
    """The matrices that cross first."""
    order = sorted(found.measured, key=_critical)
    table = Table(title="First to cross", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("matrix")
    for name in ("critical scale", "law", "intruders at 1", "re-enters"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in order[:_MOST_ROWS]:
        exact = f"{row.critical:.4f}" if row.critical is not None else f"above {row.scales[-1]:g}"
        law = f"{row.law.critical:.3g}" if row.law else "none"
        again = str(len(row.intervals) - 1) if len(row.intervals) > 1 else ""
        table.add_row(words.where(row), exact, law, str(row.at(1.0)), again)
    rest = len(order) - _MOST_ROWS
    return Group(table, Text(f"and {rest} more", style="dim")) if rest > 0 else table


def advice(found: ModelSweep) -> str:
    """What to do about the matrices that meet intruders at or below the scale they were trained to."""
    early = [row for row in found.measured if _critical(row) <= 1]
    if not early:
        return "Nothing to lower: as trained, every matrix is within its budget."
    if found.alphas and all(row.update_kind == LINEAR for row in early if row.key in found.alphas):
        kept = "1 matrix" if len(early) == 1 else f"each of {len(early)} matrices"
        return (
            f"--alpha-pattern FILE writes the alpha that keeps {kept} just "
            "below its first crossing: put it in adapter_config.json and measure what it costs on your task."
        )
    scale = min(row.budget for row in early if row.budget is not None)
    return (
        f"This update has no alpha to lower by. W0 + s dW with s = {scale:.3g} is below every first crossing: "
        "measure what that costs on your task."
    )


def _left_out(found: ModelSweep) -> list[str]:
    failed = [row for row in found.rows if row.status in FAILURES]
    lines = [f"failed: {words.where(row)}: {safe(row.reason, None)}" for row in failed[:5]]
    lines += [f"failed: {len(failed) - 5} more"] if len(failed) > 5 else []
    lines += [f"note: {safe(note, None)}" for note in found.provenance["notes"]]
    if found.skipped:
        reasons = "; ".join(f"{reason} ({number})" for reason, number, _ in words.skipped_by_reason(found.skipped)[:4])
        lines.append(f"{count(len(found.skipped), 'tensor')} not analysed: {reasons}")
    return ["", *lines] if lines else []
