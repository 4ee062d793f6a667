"""Cosines between the leading directions of a tuned weight and all directions of its base."""

from typing import Literal

import torch

from spectra.engine.decomposition import SVD

Side = Literal["left", "right"]
SIDES: tuple[Side, ...] = ("left", "right")


def cosines(base: SVD, tuned: SVD, *, k: int, side: Side = "left") -> torch.Tensor:
    """Return |cos| between base vector i and tuned vector j: [p, min(k, p)], float32, at most 1.

    Left vectors live in the output space `R^m`, right ones in the input space `R^n`.
    """
    U0, U = base.vectors(side), tuned.vectors(side)[:, :k]
    wide = torch.promote_types(U0.dtype, U.dtype)
    return (U0.to(wide).T @ U.to(wide)).abs().clamp_max(1.0)
