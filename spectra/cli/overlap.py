"""`spectra overlap`: what two fine-tunings of one base have in common."""

import click

from spectra.cli.options import Output, Reading, file_options, reading_options
from spectra.cli.progress import progress_bar


@click.command(name="overlap", short_help="What two fine-tunings of one base have in common.")
@click.argument("base")
@click.argument("first")
@click.argument("second")
@click.option("--k", default=10, show_default=True, help="Leading directions of each update that are compared.")
@click.option("--device", default="auto", show_default=True, help="Where to compute: auto, cpu or cuda.")
@reading_options
@file_options
@click.pass_context
def command(
    ctx: click.Context,
    base: str,
    first: str,
    second: str,
    k: int,
    device: str,
    reading: Reading,
    output: Output,
) -> None:
    """Compare the updates of FIRST and SECOND, two models tuned from BASE: two ranks, two seeds, two checkpoints.

    Each matrix that both change is looked at on both sides: how much of their leading directions the updates share,
    beside what random directions share, the angles between them, and whether they point the same way. Adapters are
    never multiplied out.

    \b
    Example:
      spectra overlap llama-3.2-1b lora-r8 lora-r64
      spectra overlap base checkpoint-500 checkpoint-5000 --json overlap.json --figures figures
    """
    from spectra.loaders.files import require_exists

    output.check()
    for path in (base, first, second):
        require_exists(path)
    import spectra
    from spectra.reports import terminal
    from spectra.reports.overlap import summary

    with progress_bar("comparing") as progress:
        found = spectra.overlap(base, first, second, k=k, device=device, progress=progress, **reading.keywords())
    if not output.to_stdout:
        terminal.show(summary(found))
    output.write(found)
    ctx.exit(1 if found.failed else 0)
