"""What the start of a LoRA took out of the base, computed from it in float32 as PEFT does on loading."""

import torch
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from spectra.errors import UnsupportedError
from spectra.loaders.adapters.families.starts import RECOMPUTED, drops, name_of, start_of
from spectra.loaders.adapters.family import Target
from spectra.text import show
from spectra.updates import LowRank

Decomposed = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
# Neighbouring singular values closer than this, of the largest, are one to float32: their vectors are any mixture.
_TIED = 100 * torch.finfo(torch.float32).eps


def taken(target: Target) -> LowRank | None:
    """Return what was taken out of the base `[m, n]` beside the factors, None where nothing was or it is left out.

    PiSSA: its r leading singular components. OLoRA: s times the product of the first r columns and rows of its QR
    decomposition. KaSA: its r smallest singular components. Embeddings have no such start.
    """
    config, start = target.config, start_of(target.config)
    wanted = drops(config) or (start in RECOMPUTED and not config.initial)
    if not wanted or config.as_stored or "lora_embedding_A" in target.parts:
        return None
    if target.layout.kind == "kernel":
        raise UnsupportedError(f"'{show(target.module)}': {name_of(config)} on a convolution is not read.")
    base, r = target.base(), target.parts["lora_A"].shape[0]
    if not bool(torch.isfinite(base).all()):
        return None  # without a decomposition; whatever is made of such a base is reported as not finite
    if target.dtype in (torch.float16, torch.bfloat16):
        name = str(target.dtype).removeprefix("torch.")
        target.remarks.append(f"without the rounding to {name} of what {name_of(config)} left of the base")
    if start == "olora":
        return _orthonormal(target, base, r)
    U, S, Vh = _svd(base)
    kept = r if start == "pissa" else max(len(S) - r, 0)
    _tell_ties(target, S, kept)
    part = slice(None, kept) if start == "pissa" else slice(kept, None)
    return LowRank(U[:, part] * S[part], Vh[part])


def _svd(matrix: torch.Tensor) -> Decomposed:
    try:
        U, S, Vh = torch.linalg.svd(matrix, full_matrices=False)
    except LinAlgError:  # there are finite matrices on which float32 does not converge
        U, S, Vh = (part.float() for part in torch.linalg.svd(matrix.double(), full_matrices=False))
    return U, S, Vh


def _tell_ties(target: Target, values: torch.Tensor, cut: int) -> None:
    if 0 < cut < len(values) and values[cut - 1] - values[cut] <= _TIED * values[0]:
        target.remarks.append(
            f"singular values {cut} and {cut + 1} of the base are one to float32: which of their directions "
            f"{name_of(target.config)} took cannot be known"
        )


def _orthonormal(target: Target, base: torch.Tensor, r: int) -> LowRank:
    """Decompose the weight as it is stored, which for a Conv1D is the other way round."""
    Q, R = torch.linalg.qr(target.layout.to_stored(base))
    scaling = target.config.scaling_of(target.module, r)
    if target.layout.kind == "transposed":
        return LowRank(R[:r].T * scaling, Q[:, :r].T)
    return LowRank(Q[:, :r] * scaling, R[:r])
