"""`spectra card`: the summary of a diagnosis kept up to date in a README."""

import os
import sys
from pathlib import Path
from typing import IO, Any

import click

from spectra.cli.options import (
    STDOUT,
    Analysis,
    Codes,
    analysis_options,
    code_options,
    require_writable,
    spectrum,
)
from spectra.cli.progress import progress_bar
from spectra.errors import InputError, UsageError
from spectra.text import show, size

_README, _MOST = "README.md", 8 * 2**20


@click.command(name="card", short_help="Keep the summary of a model in its README.")
@click.argument("base", required=False)
@click.argument("tuned", required=False)
@click.option(
    "--readme", metavar="FILE", type=click.Path(path_type=Path), help="The README to update; by default TUNED's own."
)
@click.option(
    "--from", "source", metavar="FILE", help="Take what --markdown wrote instead of measuring ('-' is stdin)."
)
@click.option("--dry-run", is_flag=True, help="Print what would change, and change nothing.")
@click.option("--check", is_flag=True, help="Exit with 1 when the README is not up to date, and change nothing.")
@analysis_options
@spectrum
@code_options
@click.pass_context
def command(
    ctx: click.Context,
    base: str | None,
    tuned: str | None,
    readme: Path | None,
    source: str | None,
    dry_run: bool,
    check: bool,
    analysis: Analysis,
    spectrum: str,
    codes: Codes,
) -> None:
    """Diagnose TUNED against BASE and keep the summary in a README, a model card on the Hub.

    The words are those of `spectra diagnose`. The summary lies between two lines that a page does not show,
    `<!-- spectra:begin -->` and `<!-- spectra:end -->`, and is appended where they are missing; no other byte of the
    file changes. A README that is missing is made, with the summary alone: what the Hub reads above a card (license,
    base_model) is yours to add. Versions and dates alone never make it out of date.

    \b
    Example:
      spectra card llama-3.2-1b my-adapter
      spectra card base my-adapter --check
      spectra card base my-adapter --ignore SP302
      spectra compare base --lora r8 --full tuned --markdown summary.md
      spectra card --from summary.md --readme README.md
    """
    _require(base, tuned, source)
    codes.require_known()
    target = _target(tuned, readme, analysis.follow_symlinks)
    new = not os.path.lexists(target)
    if not new and not target.is_file():
        raise InputError(f"'{show(target)}' is no file: name the README with --readme.")
    if not (dry_run or check):
        require_writable(target)
    from spectra import table
    from spectra.reports import card

    name = target.name
    card.check(_held(target), name)
    block, failed = (
        (_read(str(source)), 0)
        if source
        else _measured(str(base), str(tuned), spectrum=spectrum, **analysis.keywords(), **codes.keywords())
    )
    card.require_summary(block, source or "the summary")
    before = _held(target)
    after = card.updated(before, block, name)
    if dry_run:
        click.echo(card.difference(before, after, name), nl=False)
    if after == before:
        click.echo(f"{show(target)} is up to date", err=True)
    elif check:
        state = "missing" if new else "out of date"
        click.echo(f"{show(target)} is {state}: run spectra card without --check", err=True)
    elif not dry_run:
        table.write(target, after)
        made = ", which was not there: license and base_model, which the Hub reads, are yours to add" if new else ""
        click.echo(f"wrote {show(target)}{made}", err=True)
    ctx.exit(1 if failed or (check and after != before) else 0)


def _target(tuned: str | None, readme: Path | None, follow_symlinks: bool) -> Path:
    """The README to update: the one named, else the one in the folder of the tuned model, which no link may leave."""
    if readme is not None:
        return readme
    if tuned is None:
        raise UsageError("--from needs the README to update: --readme README.md.")
    from spectra.loaders.links import opening, require_inside

    folder = Path(tuned)
    own = (folder if folder.is_dir() else folder.parent) / _README
    with opening(tuned, follow_symlinks=follow_symlinks):
        require_inside(own)
    return own


def _require(base: str | None, tuned: str | None, source: str | None) -> None:
    """Refuse, before any work, anything but two models or what a report wrote."""
    from spectra.loaders.files import require_exists

    if source is not None:
        if base is not None or tuned is not None:
            raise UsageError("--from takes the place of BASE and TUNED: give one or the other.")
        if source != STDOUT:
            require_exists(source)
        return
    if base is None or tuned is None:
        raise UsageError("give BASE and TUNED to diagnose, or --from FILE.")
    for path in (base, tuned):
        require_exists(path)


def _read(source: str) -> str:
    raw = _bounded(sys.stdin.buffer, source) if source == STDOUT else _whole(Path(source))
    try:
        text = raw.decode().replace("\r\n", "\n")
    except UnicodeDecodeError:
        raise InputError(f"'{show(source)}' is not UTF-8 text: give it what --markdown wrote.") from None
    if not text.strip():
        raise InputError(f"'{show(source)}' is empty, and no summary: did what should have written it fail?")
    return text


def _held(readme: Path) -> bytes:
    """What a README holds, nothing where there is none yet."""
    return _whole(readme) if os.path.lexists(readme) else b""


def _whole(path: Path) -> bytes:
    from spectra.loaders.files import open_regular

    with open_regular(path) as file:
        return _bounded(file, str(path))


def _bounded(file: IO[bytes], name: str) -> bytes:
    """Return what a file holds. Raises InputError where that is more than any README has."""
    raw = file.read(_MOST + 1)
    if len(raw) > _MOST:
        raise InputError(f"'{show(name)}' is over {size(_MOST)}: too large for a README or a summary.")
    return raw


def _measured(base: str, tuned: str, **asked: Any) -> tuple[str, int]:
    """Return the summary of a diagnosis and how many of its rows failed."""
    import spectra

    with progress_bar("measuring") as progress:
        report = spectra.diagnose(base, tuned, progress=progress, **asked)
    return report.to_markdown(), report.failed
