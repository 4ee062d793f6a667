"""The tensors of a GGUF model, read one at a time and dequantised where they are quantised.

Each is read from its own bytes, which the header's check found inside the file. The package `gguf` turns blocks into
numbers and is given nothing else: its reader of files never sees one.
"""

import math
import warnings
from pathlib import Path
from types import ModuleType
from typing import IO

import numpy as np
import torch

from spectra.errors import FormatError, MachineError, UnsupportedError
from spectra.loaders.files import open_regular
from spectra.loaders.flat import FlatFile
from spectra.loaders.gguf_header import TYPES, BlockTensor, quantised
from spectra.loaders.header import Header
from spectra.text import listing, show

_SLAB = 16 * 2**20  # bytes dequantised at once: the package's own copies stay small beside the matrix


def require_readable(header: Header) -> None:
    """Refuse a model whose blocks cannot be turned into numbers here, before anything is read.

    Raises MachineError without the package `gguf`, UnsupportedError for types that it does not dequantise.
    """
    kinds = sorted({info.kind for info in quantised(header) if len(info.shape) > 1})
    unknown = [TYPES[kind][0] for kind in kinds if not _is_known(kind)]
    if unknown:
        raise UnsupportedError(
            f"{show(header.files[0].name)} holds tensors of the type {listing(unknown)}, which the installed package "
            "gguf does not dequantise. Give the model in another quantisation, or as safetensors."
        )


def _is_known(kind: int) -> bool:
    try:
        _dequantised(np.zeros((1, TYPES[kind][2]), dtype=np.uint8), kind)
    except (ValueError, NotImplementedError):
        return False
    return True


def read(info: BlockTensor, key: str, path: Path, index: int | None = None) -> torch.Tensor:
    """Return a tensor in its own dtype, in float32 where it was quantised; or its slice `[index]` alone."""
    if not info.is_quantised:
        return FlatFile(path).tensor(info, key, index)
    assert info.start is not None
    shape, share = (info.shape, info.stored) if index is None else (info.shape[1:], info.stored // info.shape[0])
    values = np.empty((math.prod(shape[:-1]), shape[-1]), dtype=np.float32)
    with open_regular(path) as file:
        file.seek(info.start + share * (index or 0))
        _fill(values, file, share // max(1, len(values)), info.kind, f"{show(path.name)}: tensor '{show(key)}'")
    return torch.from_numpy(values.reshape(shape))


def _fill(values: np.ndarray, file: IO[bytes], row_bytes: int, kind: int, where: str) -> None:
    """Fill a matrix with the rows that follow in a file, some at a time."""
    if not values.size:
        return
    step = max(1, _SLAB // (4 * values.shape[1]))
    for slab in (values[first : first + step] for first in range(0, len(values), step)):
        raw = file.read(row_bytes * len(slab))
        if len(raw) < row_bytes * len(slab):
            raise FormatError(f"{where} is truncated. Download it again.")
        slab[:] = _dequantised(np.frombuffer(raw, dtype=np.uint8).reshape(len(slab), row_bytes), kind)


def _dequantised(blocks: np.ndarray, kind: int) -> np.ndarray:
    gguf = _package()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # blocks of a damaged file overflow; what is not finite is reported by matrix
        found: np.ndarray = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType(kind))
    return found


def _package() -> ModuleType:
    try:
        import gguf.quants
    except ImportError:
        raise MachineError(
            "quantised GGUF tensors need the package gguf, which is not installed: pip install 'spectra-weights[gguf]'"
        ) from None
    return gguf
