"""A progress bar on stderr, only where a person is looking."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from spectra.text import show


@contextmanager
def progress_bar(what: str) -> Iterator[Callable[[int, int, str], None] | None]:
    """Give a function (done, total, key) that draws a bar, or None when stderr is not a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(what),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[key]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, key="")
        yield lambda done, total, key: bar.update(task, completed=done, total=total, key=show(key, 48))
