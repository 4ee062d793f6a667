"""`spectra sweep`: the phase curve, at which scale of an update intruders begin."""

import os
from pathlib import Path

import click

from spectra.cli.options import STDOUT, Analysis, Output, analysis_options, page_options, require_writable
from spectra.cli.progress import progress_bar
from spectra.errors import UsageError
from spectra.text import show

_SCALES = "0:2:41"
_MOST = 100_000


def parse_scales(text: str) -> list[float]:
    """Read FROM:TO:COUNT, evenly spaced with both ends, or scales with commas between."""
    wrong = UsageError(f"--scales takes FROM:TO:COUNT or a list such as 0,0.5,1, not '{show(text)}'.")
    try:
        if ":" not in text:
            return [float(word) for word in text.split(",")]
        first, last, number = text.split(":")
        low, high, steps = float(first), float(last), int(number) - 1
    except ValueError:
        raise wrong from None
    if not 1 <= steps <= _MOST:
        raise wrong
    return [float(f"{low + (high - low) * step / steps:.12g}") for step in range(steps + 1)]


@click.command(name="sweep", short_help="At which scale of an update its intruders begin.")
@click.argument("base")
@click.argument("tuned", metavar="ADAPTER")
@click.option(
    "--scales", default=_SCALES, show_default=True, metavar="SCALES",
    help="FROM:TO:COUNT or a list such as 0.5,1,2; 0 and 1 (as trained) are always added.",
)  # fmt: skip
@click.option(
    "--alpha-pattern", metavar="FILE",
    help="Write the alpha_pattern that keeps every module below the first intruder found, for PEFT ('-' is stdout).",
)  # fmt: skip
@click.option(
    "--margin", default=0.0, show_default=True, help="Share of its budget that each module stays below, 0 to 1."
)
@analysis_options
@page_options
@click.pass_context
def command(
    ctx: click.Context,
    base: str,
    tuned: str,
    scales: str,
    alpha_pattern: str | None,
    margin: float,
    analysis: Analysis,
    output: Output,
) -> None:
    """Scale the update of ADAPTER from nothing to twice as trained, and say where intruders begin.

    BASE and ADAPTER are what `spectra diagnose` takes; a full fine-tune is scaled as W0 + s dW. The critical scale of
    a matrix is the first found, whatever --scales: between neighbouring scales it is looked for wherever a direction
    might pass below epsilon, down to stretches of 1e-4 of a scale. Beside it stands what the threshold law predicts.
    Each base matrix is decomposed once (`spectra base` keeps that); then all scales together take less time than one
    full decomposition.

    --alpha-pattern scales each module to a scale that was looked at and had no intruder, and gives the whole pattern:
    modules that need no change keep their alpha, as PEFT gives lora_alpha to those that no pattern matches.

    \b
    Example:
      spectra sweep llama-3.2-1b my-adapter --html sweep.html --figures figures
      spectra sweep base adapter --scales 0:1:21 --alpha-pattern alphas.json
    """
    from spectra.loaders.files import require_exists

    output.check()
    grid = parse_scales(scales)
    _check_target(alpha_pattern, output)
    if margin and alpha_pattern is None:
        raise UsageError("--margin is for the file of --alpha-pattern: give that too.")
    for path in (base, tuned):
        require_exists(path)
    import spectra
    from spectra import table
    from spectra.analysis.budget import require_alphas
    from spectra.reports import terminal
    from spectra.reports.sweep import summary

    if alpha_pattern is not None:
        with spectra.open_pairs(base, tuned, **analysis.reading()) as pairs:
            require_alphas(pairs.alphas, margin)
    with progress_bar("sweeping") as progress:
        found = spectra.sweep(base, tuned, scales=grid, progress=progress, **analysis.keywords())
    if not output.to_stdout and alpha_pattern != STDOUT:
        terminal.show(summary(found))
    output.write(found)
    if alpha_pattern is not None:
        text = table.to_json({"alpha_pattern": found.alpha_pattern(margin=margin)})
        if alpha_pattern == STDOUT:
            click.echo(text, nl=False)
        else:
            table.write(alpha_pattern, text)
            click.echo(f"wrote {show(alpha_pattern)}", err=True)
    ctx.exit(1 if found.failed else 0)


def _check_target(alpha_pattern: str | None, output: Output) -> None:
    """Refuse, before any work, a file for the pattern that cannot be written or is taken."""
    if alpha_pattern is None:
        return
    if alpha_pattern == STDOUT:
        if output.to_stdout:
            raise UsageError("only one of --json, --csv, --html and --alpha-pattern can be '-' (stdout).")
        return
    require_writable(Path(alpha_pattern))
    taken = [os.path.realpath(target) for target in output.targets.values() if target != STDOUT]
    if os.path.realpath(alpha_pattern) in taken:
        raise UsageError("--alpha-pattern names the same file as --json, --csv or --html.")
