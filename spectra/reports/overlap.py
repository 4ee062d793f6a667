"""The summary of two updates beside each other that a person reads in ten seconds, as terminal or plain text."""

from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from spectra.analysis.overlap import NAMES, ModelOverlap
from spectra.engine.resemblance import SIDES, Side
from spectra.metrics.overlap import Overlap
from spectra.metrics.status import FAILURES
from spectra.reports import words
from spectra.text import count, listing, percent
from spectra.text import show as safe

_MOST_ROWS = 12
_MEANS = {"left": "output directions (left)", "right": "input directions (right)"}
_BEYOND = 5  # standard deviations above chance from which sharing is no chance
_START = 0.5  # share of the input directions from which a common start of A is worth a word


def summary(found: ModelOverlap) -> RenderableType:
    """Lay out an overlap: what was compared, the headline, the numbers by side, the matrices most alike."""
    first, second = (safe(label) for label in found.labels)
    parts: list[RenderableType] = [
        Text.assemble((first, "bold"), " and ", (second, "bold"), f", both from {safe(_base(found))}"),
        Text(),
        Text(headline(found), style="bold"),
        Text(),
    ]
    if found.measured:
        parts += [_numbers(found), Text(), _most_alike(found)]
    parts += [Padding(Text(f"→ {line}", style="dim"), (1, 0, 0, 2)) for line in doubts(found)]
    parts += [Text(line, style="dim") for line in _left_out(found)]
    return Group(*parts)


def _base(found: ModelOverlap) -> str:
    label: str = found.provenance["base"]["label"]
    return label


def headline(found: ModelOverlap) -> str:
    """The one sentence to take away."""
    rows = found.measured
    if not rows:
        reason, number = Counter(row.reason for row in found.rows).most_common(1)[0]
        why = safe(reason, None) or "no direction of an update is told from the others"
        return f"Nothing could be compared: in {number} of {count(len(found.rows), 'matrix', 'matrices')} {why}."
    left, right = found.summary["left"], found.summary["right"]
    return (
        f"The two updates share {percent(left['shared'])} of their {_leading(rows)} output directions (chance: "
        f"{percent(left['chance'])}) and {percent(right['shared'])} of the input directions (chance: "
        f"{percent(right['chance'])})."
    )


def _leading(rows: Sequence[Overlap]) -> str:
    least, most = min(row.k for row in rows), max(row.k for row in rows)
    return f"{least} leading" if least == most else f"{least} to {most} leading"


def doubts(found: ModelOverlap) -> list[str]:
    """Say what the numbers may be mistaken for: a common start, or what chance alone gives."""
    rows = found.measured
    if not rows:
        return []
    said = []
    left, right = found.summary["left"]["shared"], found.summary["right"]["shared"]
    if right > _START and left < right / 2:
        said.append(
            "Input directions alone agree. LoRA's A starts at random and moves little: two runs of one seed share it "
            "whatever they learned. The output directions (B starts at zero) tell what was learned alike."
        )
    beyond = sum(above_chance(row, "left") for row in rows)
    said.append(
        f"In {beyond} of {count(len(rows), 'matrix', 'matrices')} the output directions agree by more than {_BEYOND} "
        "standard deviations of random spaces."
    )
    return said


def above_chance(row: Overlap, side: Side) -> bool:
    """Whether two updates share more on one side than random spaces would."""
    found = row.side(side)
    return found.shared > found.chance + _BEYOND * found.chance_deviation


def _numbers(found: ModelOverlap) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column()
    told, rows = found.provenance, found.measured
    grid.add_row("matrices", f"{len(rows)} of {len(found.rows)} ({told['device']}, {told['seconds']:.1f} s)")
    for side in SIDES:
        both = found.summary[side]
        grid.add_row(_MEANS[side], f"{both['shared']:.3f} shared, {both['chance']:.3f} by chance (medians)")
    if found.cosine is not None:
        grid.add_row("cosine of the updates", f"{found.cosine:.3f} over all matrices")
    for name, label, only in zip(NAMES, found.labels, found.only, strict=True):
        if only:
            grid.add_row(f"only the {name}", f"{safe(label)} covers {count(len(only), 'matrix', 'matrices')} more")
    return grid


def _most_alike(found: ModelOverlap) -> RenderableType:
    order = sorted(found.measured, key=lambda row: -row.side("left").shared)
    table = Table(title="Most alike", title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("matrix")
    for name in ("k", "left", "chance", "right", "chance", "cosine"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in order[:_MOST_ROWS]:
        sides = [f"{value:.3f}" for side in SIDES for value in (row.side(side).shared, row.side(side).chance)]
        table.add_row(words.where(row), str(row.k), *sides, f"{row.alignment.cosine:.3f}" if row.alignment else "")
    rest = len(order) - _MOST_ROWS
    return Group(table, Text(f"and {rest} more", style="dim")) if rest > 0 else table


def _left_out(found: ModelOverlap) -> list[str]:
    failed = [row for row in found.rows if row.status in FAILURES]
    lines = [f"failed: {words.where(row)}: {safe(row.reason, None)}" for row in failed[:5]]
    lines += [f"failed: {len(failed) - 5} more"] if len(failed) > 5 else []
    lines += [f"note: {safe(note, None)}" for note in found.provenance["notes"]]
    for label, only in zip(found.labels, found.only, strict=True):
        if only:
            lines.append(f"only {safe(label)} covers {listing(only, 3)}")
    return ["", *lines] if lines else []
