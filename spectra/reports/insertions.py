"""What a person reads of an adapter without weight updates: which matrices it inserts, and what they are."""

import statistics

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from spectra.analysis.insertions import Insertions, by_kind
from spectra.metrics.insertion import InsertionRow
from spectra.metrics.status import OK
from spectra.text import count, percent
from spectra.text import show as safe

_MOST_ROWS = 12


def headline(found: Insertions) -> str:
    """The one sentence to take away."""
    inserted = count(len(found.rows), "matrix", "matrices")
    what = "what it is" if len(found.rows) == 1 else "what they are"
    return f"No weight is changed: this {found.method} inserts {inserted}, measured here for {what}."


def summary(found: Insertions) -> RenderableType:
    """Lay out an adapter without weight updates: what it is, each kind of matrix, what it shares with the base."""
    parts: list[RenderableType] = [
        Text.assemble((safe(found.base), "bold"), " + ", (safe(found.tuned), "bold")),
        Text(safe(found.method), style="dim"),
        Text(),
        Text(headline(found), style="bold"),
    ]
    for kind, rows in by_kind(found.rows).items():
        parts += [Text(), _table(kind, rows)]
        if len(rows) > _MOST_ROWS:
            parts.append(Text(f"and {len(rows) - _MOST_ROWS} more", style="dim"))
        parts += [Text(f"→ {line}", style="dim") for line in _said(kind, rows)]
    parts += [
        Text(f"failed: {safe(row.name)}: {safe(row.reason, None)}", style="dim") for row in found.rows if row.reason
    ]
    if found.skipped:
        reasons = "; ".join(dict.fromkeys(reason for _, reason in found.skipped))
        parts.append(Text(f"{count(len(found.skipped), 'tensor')} left out: {reasons}", style="dim"))
    return Group(*parts)


def _table(kind: str, rows: list[InsertionRow]) -> Table:
    table = Table(title=kind.capitalize(), title_justify="left", box=None, padding=(0, 2, 0, 0))
    beside = any(row.overlap for row in rows)
    table.add_column("where", overflow="fold")
    for name in ("shape", "norm", "eff. rank", "90 % in", *(("within base", "chance") if beside else ())):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows[:_MOST_ROWS]:
        if row.status != OK or row.rank is None or row.norm is None:
            continue
        within = (percent(row.overlap.share), percent(row.overlap.chance)) if row.overlap else ()
        table.add_row(
            safe(row.name), f"{row.shape[0]} x {row.shape[1]}", f"{row.norm:.3g}", f"{row.rank.effective:.1f}",
            str(row.rank.energy_90), *within,
        )  # fmt: skip
    return table


def _said(kind: str, rows: list[InsertionRow]) -> list[str]:
    known = [row for row in rows if row.rank is not None]
    shares = [row.overlap for row in known if row.overlap is not None]
    lines = []
    if shares:
        typical, chance = (
            statistics.median(one.share for one in shares),
            statistics.median(one.chance for one in shares),
        )
        times = f"{typical / chance:.1f} times what chance gives" if chance else ""
        lines.append(
            f"{percent(typical)} of the energy lies within the {shares[0].span} leading directions of "
            f"'{safe(shares[0].key)}'{' and its like' if len(shares) > 1 else ''}: {times}."
        )
    if kind == "up down":
        lines.append(
            "the product leaves the nonlinearity out: it is the bottleneck near zero, and no update of a weight."
        )
    return lines
