"""Find the weights in whatever a user points at, and read their header: file, index, adapter or model folder.

Wider than `formats`: it also knows NumPy archives and the file names of other libraries, which an
inspection describes and an analysis does not read. A folder without weights is refused with where they are.
"""

import zipfile
from pathlib import Path

from spectra.errors import InputError, UnsafeFileError, UnsupportedError
from spectra.loaders import dcp_metadata, formats, npz_header, pickle_header, safetensors_header
from spectra.loaders.adapters.config import CONFIG_NAME
from spectra.loaders.files import HEAD, exists, names_in, open_regular, what_it_is_instead
from spectra.loaders.header import Header
from spectra.loaders.links import outside
from spectra.text import listing, show

# What the first bytes of files that people take for weights say, where no reader here knows more.
_FIRST_BYTES = (
    (b"\x89HDF\r\n", "HDF5 (Keras, MATLAB)"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"BZh", "a bzip2 archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x28\xb5\x2f\xfd", "a zstandard archive"),
    (b"7z\xbc\xaf", "a 7-zip archive"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"%PDF", "a PDF document"),
    (b"\x7fELF", "a program"),
    (b"PAR1", "a Parquet table"),
    (b"SQLite format 3", "an SQLite database"),
    (b"{", "JSON text"),
    (b"[", "JSON text"),
)


def read_any(path: Path) -> Header:
    """Read the header of the weights at `path`.

    Raises InputError, or one of its kinds, naming what is there instead of weights.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.is_file() and not path.name.endswith(formats.INDEX_SUFFIX):
        with open_regular(path) as file:
            head = file.read(HEAD)
        if npz_header.sniff(path):
            return npz_header.read(path)
        if path.suffix not in formats.WEIGHT_SUFFIXES:
            _refuse_others(path, head)
    return formats.read_weights(path)


def _read_folder(folder: Path) -> Header:
    first = exists(folder / CONFIG_NAME)
    both = formats.ADAPTER_NAMES, formats.WEIGHT_NAMES
    names = (*both[0], *both[1]) if first else (*both[1], *both[0])
    return formats.read_weights(folder, names)


def _refuse_others(path: Path, head: bytes) -> None:
    """Refuse what is no weights by what its first bytes look like."""
    if head.startswith(b"PK"):
        _refuse_archive(path)
    if pickle_header.sniff(head) or safetensors_header.sniff(head) or what_it_is_instead(head):
        return
    if path.suffix == ".json":
        raise InputError(f"{show(path.name)} is a configuration, not weights. Give the folder it lies in.")
    kind = next((f"it is {what}" for magic, what in _FIRST_BYTES if head.startswith(magic)), None)
    if kind is None:
        kind = f"it begins with the bytes {head[:8].hex(' ')} ('{show(head[:8].decode('latin-1'))}')"
    raise UnsupportedError(f"{show(path.name)} holds no weights that are read here: {kind}.")


def _refuse_archive(path: Path) -> None:
    """Refuse a zip archive that torch did not write, such as a wheel or a packed folder."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, OSError):
        return
    if not any(name.rpartition("/")[2] == "data.pkl" for name in names):
        raise UnsupportedError(f"{show(path.name)} is a zip archive of {listing(names, 3)}. Unpack it first.")


def refused_pickle(path: Path) -> tuple[int, str] | None:
    """Return size and reason of the pickle at `path`, or in it, that is not safe to open; None when there is none."""
    entries = [path / name for name in names_in(path)] if path.is_dir() else [path]
    for entry in entries:
        if not entry.is_file() or outside(entry) or entry.suffix in (".safetensors", ".json"):
            continue
        try:
            with open_regular(entry) as file:
                pickled = pickle_header.sniff(file.read(HEAD))
            if entry.name == dcp_metadata.NAME:
                dcp_metadata.follow(entry.parent)
            elif pickled:
                pickle_header.read(entry)
        except UnsafeFileError as fault:
            return entry.stat().st_size, str(fault)
        except InputError:
            continue
    return None
