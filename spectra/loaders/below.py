"""Where the weights are when a folder that a user names holds none itself. Torch-free."""

from collections.abc import Collection, Iterator
from pathlib import Path

_MAX_ENTRIES, _MAX_DEPTH = 5000, 6


def folders_below(folder: Path, suffixes: Collection[str]) -> Iterator[str]:
    """Name the folders some levels below that hold files of these suffixes, nearest first.

    Links are not followed, and a bounded number of entries is looked at.
    """
    waiting, seen = [(folder, 0)], 0
    for place, depth in waiting:  # grows while it is walked
        try:
            entries = sorted(place.iterdir())
        except OSError:
            continue
        seen += len(entries)
        if seen > _MAX_ENTRIES:
            return
        if place != folder and any(entry.suffix in suffixes for entry in entries):
            yield str(place.relative_to(folder))
        if depth < _MAX_DEPTH:
            waiting += [(entry, depth + 1) for entry in entries if entry.is_dir() and not entry.is_symlink()]
