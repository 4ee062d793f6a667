"""`spectra inspect`: what is this file, before anything is loaded."""

import json
import shutil
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from spectra.cli.options import follow_symlinks
from spectra.text import count, listing, quantity, show, size

if TYPE_CHECKING:
    from spectra.loaders.inspection.inspect import Inspection

_INDENT, _LABEL, _MARGIN, _MIN, _MAX = 2, 12, 2, 60, 120


@click.command(name="inspect", short_help="What a file holds, without loading it.")
@click.argument("path")
@follow_symlinks
@click.option("--json", "as_json", is_flag=True, help="Write JSON to stdout.")
@click.option("--tensors", is_flag=True, help="List every tensor: name, dtype, shape.")
@click.pass_context
def command(ctx: click.Context, path: str, follow_symlinks: bool, as_json: bool, tensors: bool) -> None:
    """Say what a weights file or folder holds, without torch and without running anything in it.

    \b
    Example:
      spectra inspect my-adapter
      spectra inspect pytorch_model.bin --tensors
      spectra inspect lora.safetensors --json | jq .ranks
    """
    from spectra.loaders.inspection.inspect import inspect

    found = inspect(path, follow_symlinks=follow_symlinks)
    if as_json:
        click.echo(json.dumps(found.to_dict(listed=tensors), indent=2, allow_nan=False))
    else:
        click.echo("\n".join(_lines(found)))
        if tensors:
            click.echo("\n" + "\n".join(_table(found)))
    if found.hostile:
        ctx.exit(3)


def _lines(found: "Inspection") -> list[str]:
    width = max(_MIN, min(_MAX, shutil.get_terminal_size((100, 24)).columns))
    lines = [show(found.name), ""]
    for label, value in _rows(found):
        lines += _paragraph(label, value, width)
    for label, sentences in (("notes", found.facts), ("suspicious", found.suspicious)):
        for index, sentence in enumerate(sentences):
            lines += _paragraph(label if index == 0 else "", sentence, width)
    if not found.suspicious:
        lines += _paragraph("suspicious", "nothing", width)
    verdict = f"spectra diagnose reads this: {'yes' if found.readable else 'no'}, "
    verdict += found.reason if found.readable else f"because {found.reason}"
    lines += ["", *textwrap.wrap(verdict, width, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)]
    return lines


def _rows(found: "Inspection") -> Iterable[tuple[str, str]]:
    """Yield label and value of every line that has something to say."""
    yield "container", f"{found.container}, {size(found.bytes)}"
    if not found.hostile:
        kinds = [f"{number:,} {show(dtype)}" for dtype, number in found.dtypes.items()]
        of_kind = show(next(iter(found.dtypes))) if len(kinds) == 1 else ", ".join(kinds) or "none"
        yield "tensors", f"{found.tensors:,} ({of_kind}), {quantity(found.parameters)} parameters"
    yield "method", found.method
    if found.ranks:
        yield "rank", _numbers(found.ranks)
    if found.alphas or found.scalings:
        yield "alpha", _scale(found)
    if found.modules:
        held = count(found.modules, "module")
        yield "targets", f"{listing(found.targets, 8)} ({held})" if found.targets else held
    if found.blocks:
        yield "blocks", "; ".join(f"{show(stack)} {_ranges(numbers)}" for stack, numbers in found.blocks.items())
    if found.base_named is not None:
        yield "base named", show(found.base_named)


def _scale(found: "Inspection") -> str:
    alpha = _numbers(found.alphas) if found.alphas else "none"
    if not found.scalings:
        return alpha
    return f"{alpha}; scaling {_numbers(found.scalings)} ({found.formula})"


def _numbers(values: Sequence[float], limit: int = 8) -> str:
    shown = ", ".join(f"{value:.4g}" for value in values[:limit])
    return shown + (f" and {len(values) - limit} more" if len(values) > limit else "")


def _ranges(numbers: Sequence[int]) -> str:
    """Write ascending numbers as ranges: (0, 1, 2, 5) -> '0-2, 5'."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _paragraph(label: str, text: str, width: int) -> list[str]:
    start = f"{'':{_INDENT}}{label:<{_LABEL}}"
    rest = " " * (_INDENT + _LABEL)
    return textwrap.wrap(
        text, width, initial_indent=start, subsequent_indent=rest + " " * _MARGIN, break_on_hyphens=False
    )


def _table(found: "Inspection") -> list[str]:
    """Return the tensors as aligned lines."""
    names = [show(tensor.name) for tensor in found.listed]
    dtypes = [show(tensor.dtype) for tensor in found.listed]
    wide = max(map(len, names), default=0), max(map(len, dtypes), default=0)
    return [
        f"{name:<{wide[0]}}  {dtype:<{wide[1]}}  {' x '.join(map(str, tensor.shape)) or 'scalar'}"
        for name, dtype, tensor in zip(names, dtypes, found.listed, strict=True)
    ]
