"""Files as they are found on disk: regular, inside their folder, and what they really are."""

import difflib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import IO

from spectra.errors import FormatError, InputError, UnsafeFileError, UsageError
from spectra.loaders.links import require_inside
from spectra.text import show

HEAD = 512  # enough to recognise every kind of file below
_MAX_NAMES = 1000
_NOT_A_FILE = "is not a regular file but a folder, pipe or device, so it is not opened"


def exists(path: Path) -> bool:
    """Return whether a name is there, be it a link to nothing, of which reading it will say so.

    A name that the system cannot hold or look up is not.
    """
    return os.path.lexists(path)


def names_in(folder: Path) -> list[str]:
    """Return the sorted names in a folder. Raises InputError where it cannot be listed, or not followed."""
    require_inside(folder)
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError as fault:
        raise InputError(f"the folder '{show(folder.name)}' cannot be listed: {fault.strerror}.") from None


def named_path(given: str | Path) -> Path:
    """Return a path that a caller names. Raises UsageError for an empty one, which is no name for where we are."""
    if not str(given):
        raise UsageError("an empty path names no file or folder. Is a variable not set? '.' is the folder we are in.")
    return Path(given)


def require_exists(given: str | Path) -> None:
    """Raise InputError naming the nearest file when what a caller names does not exist."""
    path = named_path(given)
    if exists(path):
        return
    folder = path.parent
    beside = names_in(folder)[:_MAX_NAMES] if exists(folder) and folder.is_dir() else []
    like = difflib.get_close_matches(path.name[:255], beside, n=1)
    hint = f" Did you mean '{show(folder / like[0])}'?" if like else ""
    if not path.is_absolute() and str(path).count("/") == 1 and not like:
        hint = f" If it is a model of the Hub, download it first: hf download {show(path)}"
    raise InputError(f"'{show(path)}' does not exist.{hint}")


def require_regular(path: Path) -> int:
    """Return the size of a regular file; refuse folders, pipes, devices and links that leave, without opening them."""
    try:
        status = path.stat()
    except FileNotFoundError:
        if path.is_symlink():
            raise InputError(f"'{show(path.name)}' is a link to nothing. Download what it leads to again.") from None
        raise InputError(f"'{show(path.name)}' does not exist in '{show(path.parent.name)}'.") from None
    except (OSError, ValueError) as fault:
        reason = fault.strerror if isinstance(fault, OSError) else "its name is not one a file can have"
        raise InputError(f"'{show(path.name)}' cannot be read: {reason}.") from None
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeFileError(f"'{show(path.name)}' {_NOT_A_FILE}.")
    require_inside(path)
    return status.st_size


@contextmanager
def open_regular(path: Path) -> Iterator[IO[bytes]]:
    """Open a regular file for reading, as `require_regular` allows.

    Never waits: a pipe put in its place meanwhile is refused too.
    """
    require_regular(path)
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as fault:
        raise InputError(f"'{show(path.name)}' cannot be read: {fault.strerror}.") from None
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise UnsafeFileError(f"'{show(path.name)}' {_NOT_A_FILE}.")
        try:
            yield file
        except OSError as fault:
            raise InputError(f"'{show(path.name)}' cannot be read: {fault.strerror or fault}.") from None


def require_plain_name(name: object, suffix: str, where: str) -> str:
    """Return a shard's file name from an index if it names a file beside that index, else refuse it."""
    if not isinstance(name, str):
        raise FormatError(f"{where} gives {show(repr(name), 40)} as a file name; it must be a text.")
    parsed = PureWindowsPath(name)
    inside = len(parsed.parts) == 1 and not parsed.drive and not parsed.root and name not in (".", "..")
    if not inside or "\x00" in name or ":" in name:
        raise UnsafeFileError(
            f"{where} points outside its own folder: '{show(name)}'. A shard must lie beside its index."
        )
    if not name.endswith(suffix):
        raise UnsafeFileError(f"{where} names '{show(name)}', which does not end in {suffix}.")
    return name


def what_it_is_instead(head: bytes) -> str | None:
    """Say what a file that is not weights really is, judged by its first `HEAD` bytes."""
    if not head:
        return "it is empty: the download did not finish"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: run `git lfs pull` where you cloned it"
    if head.lstrip()[:1] == b"<":
        return "it is a web page: the download failed or needed a login"
    if head.startswith(b"\x93NUMPY"):
        return "it is a NumPy array (.npy): save the tensors as safetensors instead"
    if head[257:262] == b"ustar":
        return "it is a tar archive, as torch wrote long ago: load it where it was made and save it as safetensors"
    return None
