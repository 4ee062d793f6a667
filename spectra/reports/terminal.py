"""The summary a person reads in ten seconds, on a terminal or as plain text."""

import io
from collections.abc import Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from spectra.analysis.claims import Claim
from spectra.analysis.comparison import ModelComparison
from spectra.analysis.diagnosis import Diagnosis
from spectra.analysis.guide import Guide
from spectra.metrics.status import FAILURES
from spectra.reports import words
from spectra.text import count
from spectra.text import show as safe

_COLOURS = {"error": "bold red", "warning": "yellow", "info": "cyan"}
_BARS = "▁▂▃▄▅▆▇█"
_MAX_MODULES = 6


def show(renderable: RenderableType) -> None:
    """Print to stdout, coloured and padded only where it is a terminal."""
    console = Console(soft_wrap=False, highlight=False, emoji=False, markup=False)
    if console.is_terminal:
        console.print(renderable)
    else:
        print(text(renderable, console.width), end="")  # noqa: T201


def text(renderable: RenderableType, width: int = 100) -> str:
    """Return the plain text that `show` would print, without spaces at the ends of lines."""
    out = io.StringIO()
    Console(file=out, width=width, highlight=False, emoji=False, markup=False, no_color=True).print(renderable)
    return "".join(f"{line.rstrip()}\n" for line in out.getvalue().splitlines())


def summary(report: Diagnosis) -> RenderableType:
    """Lay out a diagnosis: what it is, the headline, the numbers, what they mean, what was left out."""
    base, tuned = report.provenance["base"]["label"], report.provenance["tuned"]["label"]
    parts: list[RenderableType] = [
        Text.assemble((safe(base), "bold"), " → ", (safe(tuned), "bold")),
        Text(f"{words.kind(report.info)}; {words.stored(report)}", style="dim"),
        Text(),
        Text(words.headline(report), style="bold"),
        Text(),
        _numbers(report),
    ]
    parts += _findings(report)
    parts += [Text(line, style="dim") for line in _left_out(report)]
    return Group(*parts)


def _numbers(report: Diagnosis) -> Table:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column()
    found = report.summary
    grid.add_row("matrices", _matrices(report))
    if found["measured"]:
        options = report.provenance
        compared = f"k = {options['k']}, epsilon = {options['epsilon']:g}, {options['side']}"
        intruders = (
            f"{found['intruders']} of {found['examined']} ({compared}; similarity by chance {words.chance(report)})"
        )
        grid.add_row("intruders", intruders)
        blocks = [row for row in found["by_block"] if row["name"] is not None]
        if found["intruders"] and len(blocks) > 1:
            grid.add_row("  by block", _bars(blocks))
        if found["intruders"]:
            grid.add_row("  by module", _modules(found["by_module"]))
        grid.add_row("rank of dW", words.rank_line(report))
        grid.add_row("size of dW", words.size_line(report))
    return grid


def _matrices(report: Diagnosis) -> str:
    found = report.summary
    engine = f"{report.provenance['device']}, {report.provenance['seconds']:.1f} s"
    parts = [f"{found['measured']} measured"]
    if found["zero_updates"]:
        parts.append(f"{found['zero_updates']} unchanged")
    if found["failed"]:
        parts.append(f"{found['failed']} failed")
    return f"{', '.join(parts)} ({engine})"


def _bars(blocks: Sequence[dict[str, Any]]) -> Text:
    shares = [row["intruders"] / row["examined"] if row["examined"] else 0.0 for row in blocks]
    top = max(shares)
    line = "".join(_BARS[min(int(share / top * 7.999), 7)] if share else "·" for share in shares)
    first, last = blocks[0]["name"], blocks[-1]["name"]
    worst = blocks[shares.index(top)]
    text = f" {last}   most in block {worst['name']}: {worst['intruders']} of {worst['examined']}"
    return Text.assemble(f"{first} ", (line, "yellow"), text)


def _modules(modules: Sequence[dict[str, Any]]) -> str:
    order = sorted(modules, key=lambda row: -row["intruders"])
    shown = [f"{safe(row['name'], 40)} {row['intruders']}/{row['examined']}" for row in order if row["intruders"]]
    rest = len(shown) - _MAX_MODULES
    return " · ".join(shown[:_MAX_MODULES]) + (f" · {rest} more" if rest > 0 else "")


def _findings(report: Diagnosis) -> list[RenderableType]:
    if not report.findings:
        return [Text(), Text(words.nothing_found(report), style="green")]
    parts: list[RenderableType] = [Text()]
    for finding in report.findings:
        head = Text.assemble(
            (finding.severity, _COLOURS[finding.severity]), f" {finding.code} {safe(finding.message, None)}"
        )
        parts += [head, Padding(Text(f"→ {safe(finding.advice, None)}", style="dim"), (0, 0, 0, 2))]
    return parts


def _left_out(report: Diagnosis) -> list[str]:
    lines = [
        f"failed: {words.where(layer)}: {safe(layer.reason, None)}" for layer in report.rows if layer.status in FAILURES
    ]
    lines = lines[:5] + ([f"failed: {len(lines) - 5} more"] if len(lines) > 5 else [])
    named = report.info.base_named
    if named:
        lines.append(f"the adapter names its base '{safe(named)}'")
    lines += [f"note: {safe(note, None)}" for note in report.provenance["notes"]]
    if report.skipped:
        reasons = "; ".join(f"{reason} ({number})" for reason, number, _ in words.skipped_by_reason(report.skipped)[:4])
        lines.append(f"{count(len(report.skipped), 'tensor')} not analysed: {reasons}")
    return ["", *lines] if lines else []


def comparison(found: ModelComparison) -> RenderableType:
    """Lay out a comparison: the models in order, what follows with its evidence and limits, advice for each model."""
    ranking = Table(title=found.ranking.title, title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    ranking.add_column("", justify="right")
    ranking.add_column("model", overflow="fold")
    ranking.add_column("method", min_width=11)
    for name in ("intruders", "rank of dW", "size of dW", "parameters"):
        ranking.add_column(name, justify="right", no_wrap=True)
    for standing in found.standings:
        place, *numbers = words.place_and_numbers(found, standing)
        ranking.add_row(place, Text(safe(standing.name, 32), style="bold"), standing.method, *numbers)
    rule = [Text(found.ranking.rule, style="dim")] if found.ranking.rule else []
    told = words.told(found)
    said = [part for whose, claim in told for part in (Text(), _claim(claim, f"{whose}: " if whose else ""))]
    sources = "; ".join(dict.fromkeys(source.name for _, claim in told for source in claim.sources))
    return Group(
        Text(), ranking, *rule, *said, Text(), Text(f"Sources: {sources}.", style="dim") if sources else Text()
    )


def _claim(claim: Claim, whose: str = "") -> RenderableType:
    """A claim, and indented below it what it stands on and how far it goes."""
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column()
    for label, lines in (("evidence", claim.evidence), ("limits", claim.limits)):
        for at, line in enumerate(lines):
            grid.add_row("" if at else label, line)
    return Group(Text(whose + claim.text, style="bold"), Padding(grid, (0, 0, 0, 2)))


def guide(found: Guide) -> RenderableType:
    """Lay out the decision table: one method a row block, so that it reads at any width."""
    parts: list[RenderableType] = [
        Text("Which way of fine-tuning?", style="bold"),
        Text(found.assumptions, style="dim"),
    ]
    for method, cells in found.rows.items():
        grid = Table.grid(padding=(0, 2))
        grid.add_column(no_wrap=True, style="dim")
        grid.add_column()
        for column, cell in zip(found.columns, cells, strict=True):
            mark = words.known_by(cell)
            line = Text(safe(cell.text, None))
            line.append(f"  [{mark}]" if mark else "", style="green")
            grid.add_row(column, line)
        parts += [Text(), Text(method, style="bold"), Padding(grid, (0, 0, 0, 2))]
    return Group(*parts)
