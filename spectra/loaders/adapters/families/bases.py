"""The singular vectors of W0 that a method starts from and does not store, computed again as PEFT does on loading."""

import torch

from spectra.errors import UnsupportedError
from spectra.loaders.adapters.families.unread import AGAIN
from spectra.loaders.adapters.family import Target
from spectra.text import show

_APART = 1e-6  # of the largest value: as close as float32 tells two singular values apart


def decomposed(target: Target) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return U, S and V^T of W0 in float32."""
    return torch.linalg.svd(target.base(), full_matrices=False)  # type: ignore[no-any-return]


def require_apart(target: Target, S: torch.Tensor, first: int, last: int) -> None:
    """Raise UnsupportedError where two neighbours among S[first - 1], ..., S[last] are equal in float32.

    Vectors of equal values are not determined, so what was built on them cannot be built again. Of values that are
    zero all vectors do.
    """
    known = S[max(first - 1, 0) : last + 1]
    equal = known[:-1] - known[1:] <= _APART * S[0]
    if bool((equal & (known[:-1] > _APART * S[0])).any()):
        raise UnsupportedError(
            f"'{show(target.module)}' was trained from the singular vectors of the base, and two singular values there "
            f"are equal, so that the vectors cannot be had again. {AGAIN}"
        )
