"""The command `spectra`: its table of commands, and how every failure becomes one line and an exit code."""

import errno
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import click

from spectra import __version__
from spectra.cli import base, card, compare, demo, diagnose, explain, inspect, overlap, sweep
from spectra.errors import SpectraError
from spectra.text import nearest, show

COMMANDS: tuple[click.Command, ...] = (
    demo.command, diagnose.command, compare.command, sweep.command, overlap.command, card.command, base.command,
    inspect.command, explain.command,
)  # fmt: skip
INTERNAL, ENVIRONMENT, INTERRUPTED = 70, 4, 130


class _ReaderGone(Exception):  # noqa: N818
    """The reader of our output went away, as `| head` does. click itself would exit with 1: failed rows, here."""


class _Commands(click.Group):
    """Lists commands in the order of the table and names the nearest one for a misspelt word."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise _ReaderGone from None

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            like = nearest(args[0], self.commands, cutoff=0.6)
            hint = f" Did you mean '{like}'?" if like else ""
            raise click.UsageError(f"there is no command '{show(args[0])}'.{hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="spectra")
@click.option("--debug", is_flag=True, help="Show the traceback of a failure.")
def cli(debug: bool) -> None:
    """What did fine-tuning do to my weights?

    Compares a fine-tuned model or adapter with its base, matrix by matrix: intruder dimensions, the
    rank of the update, its size, and what they mean.

    \b
    Example:
      spectra demo
      spectra diagnose path/to/base path/to/adapter --html report.html
    """


for _command in COMMANDS:
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit: 0 fine, 1 failed rows or findings, 2 usage, 3 input, 4 environment."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        code = cli.main([word for word in words if word != "--debug"], prog_name="spectra", standalone_mode=False)
    except (Exception, KeyboardInterrupt) as fault:  # noqa: BLE001
        if debug:
            traceback.print_exc()
        code = _explain(fault)
    sys.exit(code if isinstance(code, int) else 0)


def _explain(fault: BaseException) -> int:
    """Say in one sentence what went wrong and return the exit code."""
    if isinstance(fault, SpectraError):
        return _say(fault, fault.exit_code)
    if isinstance(fault, click.ClickException):
        fault.show()
        return fault.exit_code
    if isinstance(fault, KeyboardInterrupt | click.Abort):
        return _say("interrupted", INTERRUPTED)
    if isinstance(fault, _ReaderGone):
        # Nothing more to say, and stdout must not be flushed again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if isinstance(fault, MemoryError):
        return _say("out of memory: leave large matrices out with --exclude, or use a larger machine", ENVIRONMENT)
    if isinstance(fault, OSError):
        reason = "the disk is full" if fault.errno == errno.ENOSPC else fault.strerror or str(fault)
        return _say(f"{show(fault.filename or 'the system')}: {reason}", ENVIRONMENT)
    what = f"{type(fault).__name__}: {show(fault)}"
    return _say(f"this is a fault of spectra itself ({what}). Please report it with the output of --debug", INTERNAL)


def _say(message: Any, code: int) -> int:
    click.echo(f"error: {message}", err=True)
    return code
