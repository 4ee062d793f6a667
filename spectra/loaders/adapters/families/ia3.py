"""IA3 (arXiv:2205.05638): each output of a weight is scaled by its `ia3_l`, each input in a feed-forward module.

`dW = (l - 1) o W0`. A linear layer stores `[out, 1]` or `[1, in]`; a convolution `[1, channels, 1, ...]` either way,
and the configuration's `feedforward_modules` tell which. The inputs of a grouped convolution are scaled by group.
"""

import math
import re

import torch

from spectra.errors import FormatError, MatchError
from spectra.loaders.adapters.config import CONFIG_NAME, AdapterConfig
from spectra.loaders.adapters.families.stored import disagreement, unfit
from spectra.loaders.adapters.family import Family, Fit, Shapes, Target, by_suffix, called
from spectra.loaders.adapters.patterns import matches
from spectra.text import show
from spectra.updates import Axis, Elementwise, LowRank, Rescaled, Update, nothing


def fits(module: str, parts: Shapes, config: AdapterConfig) -> Fit | None:
    """Return the size of the scaled axis of a linear layer."""
    shape = parts["ia3_l"]
    if len(shape) < 2 or math.prod(shape) != max(shape):
        raise disagreement(module, parts)
    if len(shape) > 2 or shape == (1, 1):
        return None
    return (shape[0], None) if shape[1] == 1 else (None, shape[1])


def update(target: Target) -> Update:
    """Return dW of one module as W0 with its rows or columns scaled."""
    gain, base = target.part("ia3_l"), target.base()
    m, n = target.shape
    if target.layout.kind == "kernel":
        return _of_kernel(target, gain.flatten())
    if gain.ndim > 2 or (gain.shape == (1, 1) and 1 not in (m, n)):
        raise unfit(target.module, "ia3_l", tuple(gain.shape), target.layout.stored_shape)
    return _scaled(base, gain.flatten(), "rows" if gain.shape == (m, 1) else "columns")


def _scaled(base: torch.Tensor, gain: torch.Tensor, axis: Axis) -> Rescaled:
    m, n = base.shape
    return Rescaled(base, nothing((m, n), base), gain, axis)


def _of_kernel(target: Target, gain: torch.Tensor) -> Update:
    base, (outputs, inputs, *kernel) = target.base(), target.layout.stored_shape
    groups, rest = divmod(len(gain), inputs)
    on_inputs, on_outputs = not rest and groups > 0 and not outputs % groups, len(gain) == outputs
    feedforward = _is_feedforward(target.module, target.config)
    if feedforward is None:
        if on_inputs and on_outputs:
            raise FormatError(
                f"{CONFIG_NAME} has no feedforward_modules, and '{show(target.module)}' has as many inputs as outputs: "
                "nothing tells which of them its ia3_l scales."
            )
        feedforward = on_inputs
    if not (on_inputs if feedforward else on_outputs):
        raise unfit(target.module, "ia3_l", (len(gain),), target.layout.stored_shape)
    if not feedforward:
        return _scaled(base, gain, "rows")
    spread = gain.repeat_interleave(math.prod(kernel))
    if groups == 1:
        return _scaled(base, spread, "columns")
    member = torch.arange(outputs)[:, None] // (outputs // groups) == torch.arange(groups)
    return Elementwise(base, LowRank(member.float(), spread.reshape(groups, -1) - 1))


def _is_feedforward(module: str, config: AdapterConfig) -> bool | None:
    """Return what the configuration says of a module; None where it says nothing."""
    names = config.raw.get("feedforward_modules")
    if isinstance(names, str):
        return matches(names, module, CONFIG_NAME) and re.fullmatch(names, module) is not None
    if not isinstance(names, list | None):
        raise MatchError(f"{CONFIG_NAME}: feedforward_modules is {show(repr(names), 40)}; it must be a list of names.")
    return None if names is None else any(module.endswith(str(name)) for name in names)


IA3 = Family(
    method="IA3",
    parse=by_suffix("ia3_l"),
    update=update,
    label=called("IA3"),
    fits=fits,
)
