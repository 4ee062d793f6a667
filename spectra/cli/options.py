"""Options that commands share, declared once; a command receives one object for each kind."""

import os
from collections.abc import Callable, Set
from dataclasses import dataclass, fields
from functools import partial, wraps
from pathlib import Path
from typing import Any, TypeVar

import click

from spectra.errors import MachineError, UsageError
from spectra.text import show

Command = TypeVar("Command", bound=Callable[..., Any])
STDOUT = "-"
_FORMS = ("json", "csv", "html", "markdown", "sarif")


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read the models. The names are those of `spectra.open_pairs`."""

    include: tuple[str, ...]
    exclude: tuple[str, ...]
    allow_unmatched: bool
    as_stored: bool
    alpha: float | None
    names: Path | None
    truncate: int | None
    follow_symlinks: bool

    def keywords(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)} | {"names": _mapping(self.names)}


@dataclass(frozen=True, slots=True)
class Analysis(Reading):
    """How to read and measure. The names are those of `spectra.diagnose`."""

    k: int
    epsilon: float
    side: str
    method: str
    device: str
    initial: str | None = None

    def reading(self) -> dict[str, Any]:
        """Return what `spectra.open_pairs` takes of it, of all matrices."""
        taken = {field.name for field in fields(Reading)} - {"include", "exclude"} | {"initial"}
        return {name: value for name, value in self.keywords().items() if name in taken}


def _mapping(path: Path | None) -> dict[str, str] | None:
    """Read a file of names: a JSON object of texts."""
    if path is None:
        return None
    from spectra.loaders import strict_json
    from spectra.loaders.files import require_exists

    require_exists(path)
    found = strict_json.read(path)
    if not all(isinstance(name, str) for name in found.values()):
        raise UsageError(f"--names takes a JSON object of texts, and '{show(path.name)}' holds something else.")
    return found


@dataclass(frozen=True, slots=True)
class Output:
    """Where results go besides the terminal; `-` is stdout."""

    json: str | None
    csv: str | None
    figures: Path | None
    html: str | None = None
    sarif: str | None = None
    markdown: str | None = None

    @property
    def targets(self) -> dict[str, str]:
        """Where each form that was asked for goes."""
        return {form: target for form in _FORMS if (target := getattr(self, form)) is not None}

    @property
    def to_stdout(self) -> bool:
        """Whether data takes stdout, so that the summary must not."""
        return STDOUT in self.targets.values()

    @property
    def wanted(self) -> bool:
        """Whether anything is to be written."""
        return bool(self.targets) or self.figures is not None

    def check(self) -> None:
        """Refuse, before any work, targets that cannot be written."""
        places: dict[str, list[str]] = {}
        for form, target in self.targets.items():
            places.setdefault(target if target == STDOUT else os.path.realpath(target), []).append(f"--{form}")
        for place, options in places.items():
            if len(options) > 1:
                what = "are both '-' (stdout)" if place == STDOUT else "name the same file"
                raise UsageError(f"{options[0]} and {options[1]} {what}: give each its own.")
        for target in self.targets.values():
            if target != STDOUT:
                require_writable(Path(target))
        if self.figures is not None:
            _require_folder(self.figures)

    def write(self, result: Any, **located: Any) -> None:
        """Write a result everywhere that was asked, and say where on stderr.

        located : what `to_sarif` takes to say which file a finding is about.
        """
        for form, target in self.targets.items():
            text = getattr(result, f"to_{form}")
            if form == "sarif":
                text = partial(text, **located)
            if target == STDOUT:
                click.echo(text(), nl=False)
            else:
                text(target)
                click.echo(f"wrote {show(target)}", err=True)
        if self.figures is not None:
            written = result.save_figures(self.figures)
            click.echo(f"wrote {len(written)} files into {show(self.figures)}", err=True)


@dataclass(frozen=True)
class Codes:
    """Which findings to look for."""

    select: tuple[str, ...]
    ignore: tuple[str, ...]

    def keywords(self) -> dict[str, Any]:
        """Return what `spectra.diagnose` takes of it."""
        return {"select": separated(self.select), "ignore": separated(self.ignore)}

    def require_known(self) -> None:
        """Refuse, before any work, codes that no finding has."""
        from spectra.findings.rules import chosen

        chosen(**self.keywords())


@dataclass(frozen=True)
class Search(Codes):
    """Which findings to look for, and how a pipeline is told of them."""

    github: bool
    fail_on: str

    def check(self, output: Output) -> None:
        """Refuse, before any work, codes that no finding has and two things on stdout."""
        self.require_known()
        if self.github and output.to_stdout:
            raise UsageError("--github writes to stdout, and '-' does too: give the other a file.")

    def exit_code(self, failed: int, severities: Set[str]) -> int:
        """Return 1 when rows failed, or findings reach the threshold, else 0."""
        reached = {"never": set(), "error": {"error"}, "warning": {"error", "warning"}}[self.fail_on]
        return 1 if failed or severities & reached else 0


def separated(words: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words with those split that have commas between."""
    return tuple(part for word in words for part in word.split(","))


def relative(path: str) -> str:
    """Return a path as a log may hold it: below the folder we are in, else the last part alone."""
    whole = Path(path).absolute()
    return (whole.relative_to(Path.cwd()) if whole.is_relative_to(Path.cwd()) else Path(whole.name)).as_posix()


def require_writable(path: Path) -> None:
    """Refuse a file that cannot be written, before any work."""
    target = Path(os.path.realpath(path))  # a link stays one: what it leads to is written
    if path.name == "" or target.is_dir():
        raise MachineError(f"'{show(path)}' is a folder: name a file in it.")
    if target.is_symlink():
        raise MachineError(f"'{show(path)}' is a link that leads back to itself: name another.")
    if not target.parent.is_dir():
        folder = target.parent if path.is_symlink() else path.parent
        raise MachineError(f"the folder '{show(folder)}' for '{show(path.name)}' does not exist. Make it first.")
    _require_no_weights(target)
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise MachineError(f"'{show(path)}' cannot be written: permission denied.")


def _require_no_weights(path: Path) -> None:
    """Refuse to write over a file of weights: it is most likely one of the models, named in the wrong place."""
    from spectra.loaders.formats import WEIGHT_SUFFIXES

    if path.suffix in WEIGHT_SUFFIXES and path.is_file() and path.stat().st_size:
        raise UsageError(f"'{show(path)}' is a file of weights and would be written over: name another.")


def _require_folder(path: Path) -> None:
    """Refuse, before any work, a folder for figures that can neither be made nor written into."""
    if str(path) == STDOUT:
        raise UsageError("--figures takes a folder: figures do not go to stdout ('-').")
    there = next(place for place in (path, *path.parents) if place.exists())
    if not there.is_dir():
        raise MachineError(f"'{show(there)}' is a file: --figures takes a folder.")
    if not os.access(there, os.W_OK):
        raise MachineError(f"the folder '{show(there)}' cannot be written: permission denied.")


_MEASURING = (
    click.option("--k", default=10, show_default=True, help="Leading singular vectors compared in each matrix."),
    click.option(
        "--epsilon", default=0.5, show_default=True, help="A direction less similar to the base than this intrudes."
    ),
    click.option(
        "--side",
        type=click.Choice(["left", "right", "both"]),
        default="left",
        show_default=True,
        help="Output directions (the paper's), input directions, or both.",
    ),
    click.option("--method", default="auto", show_default=True, help="Engine: auto, exact, certified or basis."),
    click.option("--device", default="auto", show_default=True, help="Where to compute: auto, cpu or cuda."),
)
follow_symlinks = click.option(
    "--follow-symlinks", is_flag=True, help="Follow links that leave the folder they lie in, or the Hub's repository."
)
_READING = (
    click.option(
        "--include", multiple=True, metavar="PATTERN", help="Only weights whose name has this (q_proj, *.3.*)."
    ),
    click.option("--exclude", multiple=True, metavar="PATTERN", help="Leave out weights whose name has this."),
    click.option("--allow-unmatched", is_flag=True, help="List adapter tensors that match nothing, and go on."),
    click.option(
        "--as-stored", is_flag=True,
        help="Read an adapter whose start changed the base (PiSSA, CorDA, ...) as s B A alone; every output says so.",
    ),
    click.option("--alpha", type=float, metavar="NUMBER", help="The alpha of an adapter whose file does not hold it."),
    click.option(
        "--names", metavar="FILE", type=click.Path(path_type=Path),
        help="JSON: from module names in the adapter to those in the base, where they are not the same.",
    ),
    click.option("--truncate", type=int, metavar="R", help="Read a DyLoRA adapter at rank R: its first R pieces."),
    follow_symlinks,
)  # fmt: skip
_INITIAL = click.option(
    "--initial", metavar="PATH",
    help="The adapter before training, where its start changed the base: its factors are subtracted.",
)  # fmt: skip
_FILES = (
    click.option("--json", metavar="FILE", help="Write everything as JSON ('-' is stdout)."),
    click.option("--csv", metavar="FILE", help="Write one line a matrix as CSV ('-' is stdout)."),
    click.option(
        "--figures", metavar="DIR", type=click.Path(path_type=Path), help="Write every figure as PNG, SVG and PDF."
    ),
)
_HTML = click.option(
    "--html", metavar="FILE", help="Write a page to read, one file that loads nothing ('-' is stdout)."
)
spectrum = click.option(
    "--spectrum",
    default="auto",
    show_default=True,
    help="Ranks of a dense update: exact, estimated (with error bars) or auto (estimated above 8192).",
)
_MARKDOWN = click.option("--markdown", metavar="FILE", help="Write a summary for a model card ('-' is stdout).")
_SARIF = click.option("--sarif", metavar="FILE", help="Write the findings as SARIF 2.1.0 ('-' is stdout).")
_CODES = (
    click.option(
        "--select", multiple=True, metavar="CODE[,CODE]",
        help="Look for these findings only: SP201, SP2 (all that start so), or a name.",
    ),
    click.option("--ignore", multiple=True, metavar="CODE[,CODE]", help="Leave these out, whatever --select says."),
)  # fmt: skip
_SEARCH = (
    *_CODES,
    click.option(
        "--github", is_flag=True,
        help="Print the findings as annotations of a GitHub workflow, in place of the summary.",
    ),
    click.option(
        "--fail-on", type=click.Choice(["never", "error", "warning"]), default="never", show_default=True,
        help="Exit with 1 when there are findings of this severity or worse.",
    ),
)  # fmt: skip


def _gathered(options: tuple[Any, ...], kind: type[Any], name: str) -> Callable[[Command], Command]:
    def decorate(function: Command) -> Command:
        @wraps(function)
        def gathered(**given: Any) -> Any:
            given[name] = kind(**{field.name: given.pop(field.name) for field in fields(kind) if field.name in given})
            return function(**given)

        decorated: Any = gathered
        for option in reversed(options):
            decorated = option(decorated)
        return decorated  # type: ignore[no-any-return]

    return decorate


analysis_options = _gathered((*_MEASURING, *_READING, _INITIAL), Analysis, "analysis")
comparison_options = _gathered((*_MEASURING, *_READING), Analysis, "analysis")
reading_options = _gathered(_READING, Reading, "reading")
output_options = _gathered((*_FILES[:2], _HTML, _MARKDOWN, _SARIF, *_FILES[2:]), Output, "output")
page_options = _gathered((*_FILES[:2], _HTML, *_FILES[2:]), Output, "output")
file_options = _gathered(_FILES, Output, "output")
code_options = _gathered(_CODES, Codes, "codes")
search_options = _gathered(_SEARCH, Search, "search")
