"""`spectra demo`: the main job on a small real model that ships with the package."""

from pathlib import Path

import click

from spectra.cli.progress import progress_bar

FOLDER = Path("spectra-demo")


@click.command(name="demo", short_help="The main job on a small real model, offline.")
@click.option(
    "--into", type=click.Path(path_type=Path), default=FOLDER, show_default=True, help="Folder for what it writes."
)
def command(into: Path) -> None:
    """Diagnose a real adapter, compare it with full fine-tuning, and write the reports. Needs no network.

    The package carries a small language model trained on Wikipedia, and three fine-tunes of it on
    Python code: LoRA at rank 2, LoRA at rank 32, and full fine-tuning.

    \b
    Example:
      spectra demo
    """
    import spectra
    from spectra.reports import terminal

    trio = Path(__file__).parent.parent / "demo"
    base = trio / "base"
    models = {"lora-r2": trio / "lora-r2", "lora-r32": trio / "lora-r32", "full": trio / "full"}
    into.mkdir(parents=True, exist_ok=True)
    with progress_bar("measuring") as progress:
        report = spectra.diagnose(base, models["lora-r2"], progress=progress)
    terminal.show(terminal.summary(report))
    report.to_html(into / "report.html")
    with progress_bar("comparing") as progress:
        found = spectra.compare(base, models, progress=progress)
    terminal.show(terminal.comparison(found))
    found.to_html(into / "compare.html")
    click.echo(f"\nThe report is {into / 'report.html'}; LoRA beside full fine-tuning is {into / 'compare.html'}.")
