"""`spectra demo`: the main job on a small real model that ships with the package."""

import json
from collections.abc import Mapping
from itertools import permutations
from pathlib import Path

import click

from spectra.cli.progress import progress_bar

FOLDER = Path("spectra-demo")
MODELS = ("lora-r2", "lora-r32", "full")
Losses = Mapping[str, Mapping[str, float]]


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
    losses = _losses(trio)
    click.echo("\n" + _table(losses))
    click.echo()
    terminal.show(what_it_shows(losses, {standing.name: standing.intruders for standing in found.standings}))
    click.echo(f"\nThe report is {into / 'report.html'}; LoRA beside full fine-tuning is {into / 'compare.html'}.")


def _losses(trio: Path) -> dict[str, dict[str, float]]:
    """Held-out losses by model and text, from the record of the training."""
    record = json.loads((trio / "training.json").read_text())
    return {
        name: {text: found["bits_per_byte"] for text, found in record[name]["held_out"].items()}
        for name in ("base", *MODELS)
    }


def _table(losses: Losses) -> str:
    lines = ["Held-out loss in bits per byte, from the record of their training", f"{'':12}Python  Wikipedia"]
    lines += [f"  {name:10}{loss['python']:6.2f}  {loss['wikipedia']:9.2f}" for name, loss in losses.items()]
    return "\n".join(lines)


def what_it_shows(losses: Losses, intruders: Mapping[str, int]) -> str:
    """Say in a sentence whether the models with more intruders forgot more, beside what each learnt.

    Of one base, a higher loss on Wikipedia is more forgotten, a lower one on Python more learnt.
    """
    against = [
        (one, other)
        for one, other in permutations(intruders, 2)
        if intruders[one] < intruders[other] and losses[one]["wikipedia"] > losses[other]["wikipedia"]
    ]
    if not against:
        return "Here the models with more intruders forgot more; three models prove no rule."
    one, other = max(against, key=lambda pair: intruders[pair[1]] - intruders[pair[0]])
    forgot, learnt = ((losses[one][text], losses[other][text]) for text in ("wikipedia", "python"))
    return (
        f"Here {one} has fewer intruders than {other} ({intruders[one]} against {intruders[other]}), yet it forgot "
        f"more ({forgot[0]:.2f} against {forgot[1]:.2f} on Wikipedia) and learnt "
        f"{'more' if learnt[0] < learnt[1] else 'less'} ({learnt[0]:.2f} against {learnt[1]:.2f} on Python): the count "
        "alone does not say what was forgotten."
    )
