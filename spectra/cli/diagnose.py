"""`spectra diagnose`: the main job."""

from pathlib import Path

import click

from spectra.cli.options import Analysis, Output, analysis_options, exit_code, fail_on, output_options, spectrum
from spectra.cli.progress import progress_bar


@click.command(name="diagnose", short_help="What fine-tuning did to every matrix.")
@click.argument("base")
@click.argument("tuned")
@analysis_options
@spectrum
@output_options
@fail_on
@click.pass_context
def command(
    ctx: click.Context, base: str, tuned: str, analysis: Analysis, spectrum: str, output: Output, fail_on: str
) -> None:
    """Say what fine-tuning did to every matrix of BASE that TUNED changes.

    BASE is a checkpoint: a folder, a safetensors or .bin file, or an index of shards. TUNED is a full
    fine-tune of it, or an adapter folder as PEFT writes it.

    \b
    Example:
      spectra diagnose llama-3.2-1b my-adapter --html report.html
      spectra diagnose base tuned --include q_proj --side both --json - | jq .summary
    """
    from spectra.loaders.files import require_exists

    output.check()
    for path in (base, tuned):
        require_exists(Path(path))  # before torch is imported: a mistyped path is answered at once
    import spectra
    from spectra.reports import terminal

    with progress_bar("measuring") as progress:
        report = spectra.diagnose(base, tuned, spectrum=spectrum, progress=progress, **analysis.keywords())
    if not output.to_stdout:
        terminal.show(terminal.summary(report))
    output.write(report)
    ctx.exit(exit_code(report.failed, {finding.severity for finding in report.findings}, fail_on))
