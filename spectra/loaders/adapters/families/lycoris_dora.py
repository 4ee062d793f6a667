"""Weight decomposition (DoRA, arXiv:2402.09353) as LyCORIS lays it over LoRA, LoHa and LoKr.

`W' = V * dora_scale / ||V||`, V = W0 + s dW. The shape of `dora_scale` says along what the norm runs: `(out, 1, ...)`
over all that enters an output, `(1, in, ...)` over all that leaves an input channel, its places in the kernel included.
"""

import math
from collections.abc import Callable

import torch

from spectra.errors import MatchError
from spectra.layout import Layout
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Shapes, Target
from spectra.text import show
from spectra.updates import Rescaled, Update

PART = "dora_scale"


def has_scale(parts: Shapes, config: AdapterConfig) -> bool:
    """Return whether a module is decomposed, so that its dW depends on the base weight."""
    return PART in parts


def named(name: str) -> Callable[[AdapterConfig, Shapes], str]:
    """Return the label of a method that may be decomposed."""
    return lambda config, parts: f"{name} with weight decomposition (DoRA)" if PART in parts else name


def check_scale(module: str, parts: Shapes, fit: tuple[int, int]) -> tuple[int, int]:
    """Return the shape of an update. Raises MatchError when the `dora_scale` beside it cannot belong to it."""
    shape = parts.get(PART)
    if shape is not None:
        size = math.prod(shape)
        by_output, by_input = shape[:2] == (fit[0], 1), shape[:1] == (1,) and fit[1] % max(size, 1) == 0
        if len(shape) < 2 or not ((by_output and size == fit[0]) or by_input):
            raise MatchError(f"'{show(module)}': its {PART} {list(shape)} does not fit an update of {list(fit)}.")
    return fit


def decomposed(target: Target, inner: Update) -> Update:
    """Return the update of a module whose factors give `inner`: that itself, or what its `dora_scale` makes of it."""
    scale = target.parts.get(PART)
    if scale is None:
        return inner
    W0 = target.base()
    V, (m, n) = (W0 + inner.dense()).double(), target.shape
    if scale.shape[:2] == (m, 1):
        return Rescaled(W0, inner, _gain(scale, torch.linalg.vector_norm(V, dim=1)))
    channels = _channels(target.layout)
    if scale.numel() != channels:
        raise MatchError(
            f"'{show(target.module)}': its {PART} {list(scale.shape)} fits neither the {m} outputs nor the "
            f"{channels} input channels of the base weight."
        )
    norm = torch.linalg.vector_norm(V.reshape(m, channels, n // channels), dim=(0, 2))
    return Rescaled(W0, inner, _gain(scale, norm).repeat_interleave(n // channels), axis="columns")


def _channels(layout: Layout) -> int:
    return layout.stored_shape[1] if layout.kind == "kernel" else layout.shape[1]


def _gain(scale: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
    """Return `dora_scale / ||V||`. Where V is zero so is W', whatever the gain."""
    gain = scale.double().flatten() / norm
    return torch.where(norm > 0, gain, torch.zeros_like(gain)).float()
