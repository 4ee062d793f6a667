"""Files as they are found on disk: regular, inside their folder, and what they really are."""

import stat
from pathlib import Path, PureWindowsPath

from spectra.errors import FormatError, InputError, UnsafeFileError
from spectra.text import nearest, show


def require_exists(path: Path) -> None:
    """Raise InputError naming the nearest file when `path` does not exist."""
    if path.exists():
        return
    folder = path.parent
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    like = nearest(path.name, names)
    hint = f" Did you mean '{show(folder / like)}'?" if like else ""
    if not path.is_absolute() and str(path).count("/") == 1 and not like:
        hint = f" If it is a model of the Hub, download it first: hf download {show(path)}"
    raise InputError(f"'{show(path)}' does not exist.{hint}")


def require_regular(path: Path) -> int:
    """Return the size of a regular file; refuse folders, pipes and devices without opening them."""
    try:
        status = path.stat()
    except FileNotFoundError:
        raise InputError(f"'{show(path.name)}' does not exist in '{show(path.parent.name)}'.") from None
    except OSError as fault:
        raise InputError(f"'{show(path.name)}' cannot be read: {fault.strerror}.") from None
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeFileError(f"'{show(path.name)}' is not a regular file, so it is not opened.")
    return status.st_size


def require_plain_name(name: object, suffix: str, where: str) -> str:
    """Return a shard's file name from an index if it names a file beside that index, else refuse it."""
    if not isinstance(name, str):
        raise FormatError(f"{where} gives {show(name)!r} as a file name; it must be a text.")
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
    """Say what a file that is not weights really is, judged by its first bytes."""
    if not head:
        return "it is empty"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer: run `git lfs pull` where you cloned it"
    if head.lstrip()[:1] == b"<":
        return "it is a web page: the download failed or needed a login"
    if head.startswith(b"\x93NUMPY"):
        return "it is a NumPy array (.npy): save the tensors as safetensors instead"
    if head.startswith(b"GGUF"):
        return "it is GGUF, which this version does not read: use the safetensors of the same model"
    return None
