"""A GGUF model, whole or split over files: `split.count` is in each of them, what is said of the model in the first.

The files are named `stem-00001-of-00003.gguf`, as llama-gguf-split writes them; every tensor lies whole in one
of them. Torch-free.
"""

import re
from dataclasses import replace
from pathlib import Path

from spectra.errors import FormatError
from spectra.loaders import gguf_header
from spectra.loaders.files import exists
from spectra.loaders.gguf_header import whole
from spectra.loaders.header import Header
from spectra.text import count, listing, show

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})\.gguf")


def first_of(names: list[str]) -> str | None:
    """Return the first file of a split model when names are all files of that one model, else None."""
    found = [_SHARD.fullmatch(name) for name in names]
    firsts = {_named(shard, 0) if shard else "" for shard in found}
    first = firsts.pop() if len(firsts) == 1 else ""
    return first if first in names else None


def _named(shard: re.Match[str], index: int) -> str:
    return f"{shard['stem']}-{index + 1:05d}-of-{shard['total']}.gguf"


def read(path: Path) -> Header:
    """Read the header of a GGUF model from its only or its first file.

    Raises what reading one file raises, and FormatError for files that are missing or another model's.
    """
    first = gguf_header.read(path)
    total = whole(first.metadata.get("split.count")) or 1
    if total == 1:
        return first
    name, shard = show(path.name), _SHARD.fullmatch(path.name)
    if shard is None or int(shard["total"]) != total:
        raise FormatError(f"{name} is one of {total} files of a model and not named so. Give it its name back.")
    if int(shard["number"]) != 1 or first.metadata.get("split.no") != "0":
        raise FormatError(f"{name} is not the first file of its model: give '{show(_named(shard, 0))}'.")
    others = [path.with_name(_named(shard, index)) for index in range(1, total)]
    missing = [other.name for other in others if not exists(other)]
    if missing:
        raise FormatError(f"{name}: {count(len(missing), 'file')} of its {total} missing ({listing(missing, 3)}).")
    return _joined(first, [gguf_header.read(other) for other in others], name)


def _joined(first: Header, others: list[Header], name: str) -> Header:
    tensors = dict(first.tensors)
    for number, other in enumerate(others, 1):
        file = show(other.files[0].name)
        if other.metadata.get("split.no") != str(number):
            raise FormatError(f"{file} does not say that it is file {number + 1} of the model of {name}.")
        twice = tensors.keys() & other.tensors.keys()
        if twice:
            raise FormatError(f"{file}: the tensor '{show(min(twice))}' stands in an earlier file too.")
        tensors |= other.tensors
    told = first.metadata.get("split.tensors.count", str(len(tensors)))
    if told != str(len(tensors)):
        raise FormatError(f"{name}: its files hold {len(tensors)} tensors and should hold {show(told, 40)}.")
    files = (*first.files, *(other.files[0] for other in others))
    return replace(first, container=f"GGUF, {len(files)} shards", files=files, tensors=tensors)
