"""`spectra base`: decompose a base once, so that every adapter on it is answered in a moment."""

import json
from typing import TYPE_CHECKING

import click

from spectra.cli.options import follow_symlinks
from spectra.cli.progress import progress_bar
from spectra.errors import UsageError
from spectra.text import count, show, size

if TYPE_CHECKING:
    from spectra.analysis.base_filling import Filling, FillPlan

_MOST = 20  # failures shown one by one


@click.command(name="base", short_help="Decompose a base once, for all its adapters.")
@click.argument("base", required=False)
@click.option("--include", multiple=True, metavar="PATTERN", help="Only weights whose name has this (q_proj, *.3.*).")
@click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave out weights whose name has this.")
@click.option("--device", default="auto", show_default=True, help="Where to compute: auto, cpu or cuda.")
@follow_symlinks
@click.option("--dry-run", is_flag=True, help="Print what it would take as JSON, and stop.")
@click.option("--where", is_flag=True, help="Print the folder of the cache, and stop. Remove it to empty the cache.")
@click.pass_context
def command(
    ctx: click.Context,
    base: str | None,
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    device: str,
    follow_symlinks: bool,
    dry_run: bool,
    where: bool,
) -> None:
    """Decompose every matrix of BASE and keep the result for the models that are fine-tuned from it.

    diagnose and compare then answer for an adapter without a decomposition. What is kept is found by the weights
    themselves, wherever the base lies. The cache is $SPECTRA_CACHE or the user's cache folder.

    \b
    Example:
      spectra base llama-3.2-1b --dry-run
      spectra base llama-3.2-1b --include q_proj --include v_proj
      spectra diagnose llama-3.2-1b my-adapter
      rm -r "$(spectra base --where)"
    """
    if where:
        _say_where()
        return
    if base is None:
        raise UsageError("Missing argument 'BASE': the checkpoint to decompose (or --where).")
    from spectra.loaders.files import require_exists

    require_exists(base)
    from spectra.analysis import base_filling
    from spectra.loaders.base import open_base

    opened = open_base(base, follow_symlinks=follow_symlinks)
    try:
        planned = base_filling.plan(opened, include=include, exclude=exclude, device=device)
        if dry_run:
            click.echo(json.dumps(planned.to_dict(), indent=2))
            return
        click.echo(_announcement(planned), err=True)
        with progress_bar("decomposing") as progress:
            filled = base_filling.fill(opened, planned, progress)
    finally:
        opened.source.close()
    click.echo("\n".join(_summary(filled)))
    ctx.exit(1 if filled.failed else 0)


def _say_where() -> None:
    from spectra.basis_cache import BasisCache, folder

    cache = BasisCache(folder())
    click.echo(str(cache.folder))
    click.echo(f"{count(len(cache.entries()), 'entry', 'entries')}, {size(cache.bytes())}", err=True)


def _announcement(planned: "FillPlan") -> str:
    return (
        f"at most {count(len(planned.keys), 'matrix', 'matrices')} of {show(planned.label)} on {planned.device}: about "
        f"{_duration(planned.seconds)}, {size(planned.bytes)} in {show(planned.folder, None)}, "
        f"{size(planned.memory)} of memory"
    )


def _duration(seconds: float) -> str:
    """Write a predicted time as people say it: 4244 -> '1.2 hours'."""
    for unit, name in ((3600, "hours"), (60, "minutes")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{max(seconds, 1):.0f} s"


def _summary(filled: "Filling") -> list[str]:
    lines = [
        f"{show(filled.label)}: {count(len(filled.made), 'matrix', 'matrices')} decomposed in "
        f"{_duration(filled.seconds)}, {len(filled.present):,} kept already, {len(filled.failed):,} failed, "
        f"{count(len(filled.skipped), 'tensor')} left out",
        f"  {size(filled.bytes)} written to {show(filled.folder, None)}",
    ]
    lines += [f"  {fault}" for fault in filled.broken]
    lines += [f"  failed: {show(key)}: {reason}" for key, reason in filled.failed[:_MOST]]
    if len(filled.failed) > _MOST:
        lines.append(f"  and {len(filled.failed) - _MOST:,} more failed")
    return lines
