"""`spectra compare`: LoRA beside full fine-tuning on one page."""

from collections.abc import Mapping
from pathlib import Path

import click

from spectra.cli.options import (
    Analysis,
    Output,
    Search,
    comparison_options,
    output_options,
    relative,
    search_options,
    spectrum,
)
from spectra.cli.progress import progress_bar
from spectra.errors import UsageError
from spectra.text import show


def named(given: tuple[str, ...], option: str) -> dict[str, str]:
    """Split NAME=PATH options; a lone PATH is named after its last part."""
    models: dict[str, str] = {}
    for word in given:
        name, equals, path = word.partition("=")
        if not equals:
            name, path = word.rstrip("/").rpartition("/")[2], word
        if not name or not path:
            raise UsageError(f"{option} takes NAME=PATH, not '{show(word)}'.")
        if name in models:
            raise UsageError(f"{option}: the name '{show(name)}' is given twice.")
        models[name] = path
    return models


@click.command(name="compare", short_help="Several tuned models of one base on one page.")
@click.argument("base")
@click.option("--lora", multiple=True, metavar="NAME=PATH", help="An adapter to compare; may be repeated.")
@click.option("--full", multiple=True, metavar="NAME=PATH", help="A full fine-tune to compare; may be repeated.")
@click.option(
    "--fleet",
    multiple=True,
    metavar="DIR",
    help="A folder whose subfolders are adapters, each compared; may be repeated.",
)
@click.option(
    "--initial",
    "started",
    multiple=True,
    metavar="NAME=PATH",
    help="Of the adapter with this name, as it was before training: its factors are subtracted; may be repeated.",
)
@click.option("--matrix", metavar="NAME", help="The weight whose similarity maps are drawn; of a stack, NAME[EXPERT].")
@click.option(
    "--equal-size", is_flag=True, help="Count intruders at equal size of the updates too: is the difference mere size?"
)
@click.option("--guide", is_flag=True, help="Print the decision table for this base, with measured numbers.")
@comparison_options
@spectrum
@output_options
@search_options
@click.pass_context
def command(
    ctx: click.Context,
    base: str,
    lora: tuple[str, ...],
    full: tuple[str, ...],
    fleet: tuple[str, ...],
    started: tuple[str, ...],
    matrix: str | None,
    equal_size: bool,
    guide: bool,
    analysis: Analysis,
    spectrum: str,
    output: Output,
    search: Search,
) -> None:
    """Put several tuned models of BASE on one page, ranked by evidence.

    \b
    Example:
      spectra compare base --lora r8=adapters/r8 --lora r64=adapters/r64 --full full=tuned --html compare.html
      spectra compare base --fleet adapters --csv fleet.csv
      spectra compare base --guide
    """
    from spectra.loaders.files import require_exists

    adapters, tuned, before = named(lora, "--lora"), named(full, "--full"), named(started, "--initial")
    for folder in fleet:
        adapters.update(_of_fleet(folder, adapters, analysis.follow_symlinks))
    twice = set(adapters) & set(tuned)
    if twice:
        raise UsageError(f"the name '{show(min(twice))}' is given to a --lora and a --full.")
    output.check()
    search.check(output)
    for path in (base, *adapters.values(), *tuned.values(), *before.values()):
        require_exists(path)
    if not adapters and not tuned and not guide:
        raise UsageError(
            "nothing to compare: give --lora NAME=PATH, --full NAME=PATH or --fleet DIR, or --guide alone."
        )
    if not adapters and not tuned and (output.wanted or search.github):
        raise UsageError("--guide alone only prints: every other output needs a --lora or a --full.")
    import spectra
    from spectra.loaders.pairing import open_among
    from spectra.reports import terminal

    if not adapters and not tuned:
        terminal.show(terminal.guide(spectra.guide(base, follow_symlinks=analysis.follow_symlinks)))
        return
    for name, path in (*adapters.items(), *tuned.items()):
        with open_among(base, path, **(analysis.reading() | {"initial": before.get(name)})) as pairs:
            _check_kind(name, pairs.info.method, "--full" if name in tuned else "--lora")
    with progress_bar("measuring") as progress:
        found = spectra.compare(
            base,
            {**adapters, **tuned},
            matrix=matrix,
            equal_size=equal_size,
            spectrum=spectrum,
            progress=progress,
            **(analysis.keywords() | search.keywords() | {"initial": before}),
        )
    files = {name: relative(path) for name, path in (*adapters.items(), *tuned.items())}
    if search.github:
        click.echo(found.to_github(files=files), nl=False)
    elif not output.to_stdout:
        terminal.show(terminal.comparison(found))
        if guide:
            terminal.show(terminal.guide(found.guide))
    output.write(found, files=files)
    severities = {finding.severity for model in found.models.values() for finding in model.findings}
    ctx.exit(search.exit_code(found.failed, severities))


def _of_fleet(folder: str, taken: Mapping[str, str], follow_symlinks: bool) -> dict[str, str]:
    """Return every adapter below a folder by its subfolder's name: thousands on one base, as S-LoRA serves them."""
    from spectra.loaders.adapters.beside import adapters_below
    from spectra.loaders.files import require_exists
    from spectra.loaders.links import opening, require_inside

    require_exists(folder)
    names = adapters_below(Path(folder))
    if not names:
        raise UsageError(f"--fleet: no subfolder of '{show(folder)}' holds an adapter_config.json.")
    twice = set(names) & set(taken)
    if twice:
        raise UsageError(f"--fleet: the name '{show(min(twice))}' is given twice.")
    with opening(folder, follow_symlinks=follow_symlinks):
        for name in names:
            require_inside(Path(folder) / name)
    return {name: str(Path(folder) / name) for name in names}


def _check_kind(name: str, method: str, given: str) -> None:
    """Refuse a full fine-tune given as --lora, or the other way round: the page would mislead."""
    wanted = "--full" if method == "full fine-tuning" else "--lora"
    if wanted != given:
        raise UsageError(f"'{show(name)}' holds {method}: give it as {wanted}.")
