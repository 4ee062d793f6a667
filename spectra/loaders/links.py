"""Which links are followed: a path that a user names may be one; what lies in a folder may lead about inside it.

The Hub's cache is made of links (`snapshots/<revision>/model.safetensors` to `blobs/<hash>`), so that a folder in it
reaches as far as its repository, `models--owner--name`. Any other link that leaves its folder could hand a stranger's
checkpoint a file of this machine: it is refused, unless the user says to follow links.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from spectra.errors import UnsafeFileError
from spectra.loaders.options import given_as
from spectra.text import show


@dataclass(frozen=True, slots=True)
class Reach:
    """How far links may lead: not out of `root`, a folder without links in its path; anywhere where that is None.

    named : the path that the user gave, which may itself be any link.
    """

    named: Path | None = None
    root: Path | None = None


_ANYWHERE = Reach()
_reach: ContextVar[Reach] = ContextVar("reach", default=_ANYWHERE)


def reach() -> Reach:
    """Return how far links may lead in the checkpoint that is being opened."""
    return _reach.get()


@contextmanager
def within(found: Reach) -> Iterator[None]:
    """Hold every file that is looked into meanwhile against this reach."""
    token = _reach.set(found)
    try:
        yield
    finally:
        _reach.reset(token)


def opening(model: object, *, follow_symlinks: bool) -> AbstractContextManager[None]:
    """Hold every file that is looked into meanwhile against the path of a checkpoint, or of a file of it.

    A model in memory has no files, and holds none against anything.
    """
    path = Path(model) if isinstance(model, str | Path) else None
    return within(_ANYWHERE if path is None or follow_symlinks else Reach(path, _root_of(path)))


def _root_of(path: Path) -> Path:
    """Return the folder of a path, or the repository in the Hub's cache that it is a snapshot of."""
    folder = Path(os.path.realpath(path if path.is_dir() else path.parent))
    above = (place for place in folder.parents if place.name.startswith("models--"))
    return next((place for place in above if folder.is_relative_to(place / "snapshots")), folder)


def outside(path: Path) -> Path | None:
    """Return where a path leads that is, or lies behind, a link out of reach; None for any other."""
    named, root = reach().named, reach().root
    if root is None or path == named:
        return None
    real = Path(os.path.realpath(path))
    return None if real.is_relative_to(root) else real


def require_inside(path: Path) -> None:
    """Raise UnsafeFileError for a path in a checkpoint that leads out of reach."""
    real, root = outside(path), reach().root
    if real is not None and root is not None:
        raise UnsafeFileError(
            f"'{show(path.name)}' is a link that leaves '{show(root.name)}', to '{show(real)}', and is not followed. "
            f"Put the file itself there, or allow it: {given_as('follow_symlinks')}."
        )
