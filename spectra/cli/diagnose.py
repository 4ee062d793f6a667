"""`spectra diagnose`: the main job."""

import click
from click.core import ParameterSource

from spectra.cli.options import (
    Analysis,
    Output,
    Search,
    analysis_options,
    output_options,
    relative,
    search_options,
    spectrum,
)
from spectra.cli.progress import progress_bar
from spectra.text import show

# What says how updates of weights are read and measured, and so nothing of an adapter that has none.
_OF_UPDATES = (
    "include", "exclude", "as_stored", "alpha", "names", "truncate", "initial", "epsilon", "side", "method", "spectrum",
)  # fmt: skip


@click.command(name="diagnose", short_help="What fine-tuning did to every matrix.")
@click.argument("base")
@click.argument("tuned")
@analysis_options
@spectrum
@output_options
@search_options
@click.pass_context
def command(
    ctx: click.Context, base: str, tuned: str, analysis: Analysis, spectrum: str, output: Output, search: Search
) -> None:
    """Say what fine-tuning did to every matrix of BASE that TUNED changes.

    BASE is a checkpoint: a folder, a safetensors or .bin file, or an index of shards. TUNED is a full
    fine-tune of it, or an adapter. A prompt, a prefix or a bottleneck adapter changes no weight: the matrices it
    inserts are measured for what they are.

    \b
    Example:
      spectra diagnose llama-3.2-1b my-adapter --html report.html
      spectra diagnose base tuned --include q_proj --side both --json - | jq .summary
      spectra diagnose base tuned --ignore SP3 --fail-on warning --sarif findings.sarif
    """
    from spectra.loaders.files import require_exists

    output.check()
    search.check(output)
    for path in (base, tuned):
        require_exists(path)  # before torch is imported: a mistyped path is answered at once
    import spectra
    from spectra.errors import UnsupportedError
    from spectra.reports import terminal

    try:
        with progress_bar("measuring") as progress:
            report = spectra.diagnose(
                base, tuned, spectrum=spectrum, progress=progress, **analysis.keywords(), **search.keywords()
            )
    except UnsupportedError:
        code = _insertions(ctx, base, tuned, analysis, output, search)
        if code is None:
            raise
        ctx.exit(code)
    if search.github:
        click.echo(report.to_github(file=relative(tuned)), nl=False)
    elif not output.to_stdout:
        terminal.show(terminal.summary(report))
    output.write(report, file=relative(tuned))
    ctx.exit(search.exit_code(report.failed, {finding.severity for finding in report.findings}))


def _insertions(
    ctx: click.Context, base: str, tuned: str, analysis: Analysis, output: Output, search: Search
) -> int | None:
    """Measure an adapter without weight updates for what it is and return the exit code; None where it is none."""
    import spectra
    from spectra.errors import UsageError
    from spectra.loaders.insertions import open_insertions
    from spectra.reports import insertions, terminal

    found = open_insertions(tuned, follow_symlinks=analysis.follow_symlinks)
    if found is None:
        return None
    found.source.close()
    if output.html or output.markdown or output.sarif or output.figures or search.github:
        raise UsageError(
            "an adapter without weight updates has no page, summary, figures or findings: use --json or --csv."
        )
    idle = [name for name in _OF_UPDATES if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if idle:
        raise UsageError(
            f"--{idle[0].replace('_', '-')} is for weight updates, and '{show(found.source.label)}' "
            f"({found.method}) has none. Leave it out."
        )
    measured = spectra.insertions(
        base, tuned, k=analysis.k, device=analysis.device, follow_symlinks=analysis.follow_symlinks
    )
    if not output.to_stdout:
        terminal.show(insertions.summary(measured))
    output.write(measured)
    return 1 if measured.failed else 0
