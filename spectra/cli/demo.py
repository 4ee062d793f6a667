"""`spectra demo`: the main job on a small real model that ships with the package."""

import json
from pathlib import Path

import click

from spectra.cli.progress import progress_bar

FOLDER = Path("spectra-demo")
MODELS = ("lora-r2", "lora-r32", "full")


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
    models = {name: trio / name for name in MODELS}
    into.mkdir(parents=True, exist_ok=True)
    with progress_bar("measuring") as progress:
        # An installer may have put links to its own cache where the package's files belong.
        report = spectra.diagnose(base, models["lora-r2"], follow_symlinks=True, progress=progress)
    terminal.show(terminal.summary(report))
    report.to_html(into / "report.html")
    with progress_bar("comparing") as progress:
        found = spectra.compare(base, models, follow_symlinks=True, progress=progress)
    terminal.show(terminal.comparison(found))
    found.to_html(into / "compare.html")
    click.echo("\n" + _training_record(trio))
    click.echo(f"\nThe report is {into / 'report.html'}; LoRA beside full fine-tuning is {into / 'compare.html'}.")


def _training_record(trio: Path) -> str:
    """What the models learnt and forgot, measured on held-out text when they were trained."""
    record = json.loads((trio / "training.json").read_text())
    lines = ["Held-out loss in bits per byte, from the record of their training", f"{'':12}Python  Wikipedia"]
    for name in ("base", *MODELS):
        loss = {text: found["bits_per_byte"] for text, found in record[name]["held_out"].items()}
        lines.append(f"  {name:10}{loss['python']:6.2f}  {loss['wikipedia']:9.2f}")
    return "\n".join(lines)
