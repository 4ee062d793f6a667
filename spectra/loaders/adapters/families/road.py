"""RoAd (arXiv:2409.00119): `W' = R W0`, R a scaled rotation of pairs of outputs.

Within each group of g outputs, output i is paired with i + g / 2: `y_1 = c_1 x_1 - s_1 x_2`, `y_2 = s_2 x_1 + c_2 x_2`,
with `c = alpha cos(theta)`, `s = alpha sin(theta)`. road_1 has one theta and alpha a pair, road_2 one an output,
road_4 one for the cosine and one for the sine of each output: g cosines, then g sines, group by group.
"""

import torch

from spectra.errors import FormatError, MatchError
from spectra.loaders.adapters.config import CONFIG_NAME, AdapterConfig
from spectra.loaders.adapters.families.stored import disagreement, shape_of
from spectra.loaders.adapters.family import Family, Fit, Shapes, Target, by_suffix, called
from spectra.text import listing, show
from spectra.updates import Blocks, Multiplied

_GROUP = 64  # PEFT's default
_NUMBERS = {"road_1": 1, "road_2": 2, "road_4": 4}  # per pair of outputs


def fits(module: str, parts: Shapes, config: AdapterConfig) -> Fit:
    """Return the size of the rotated outputs."""
    theta, alpha = (shape_of(module, parts, f"road_{name}", 1) for name in ("theta", "alpha"))
    numbers, group = _numbers(config), config.rank_in("group_size", _GROUP)
    outputs = 2 * theta[0] // numbers
    if theta != alpha or 2 * theta[0] % numbers:
        raise disagreement(module, parts)
    if group % 2 or outputs % group:
        raise MatchError(f"'{show(module)}': its {outputs} outputs do not divide into groups of {group}.")
    return outputs, None


def _numbers(config: AdapterConfig) -> int:
    variant = config.raw.get("variant", "road_1")
    numbers = _NUMBERS.get(variant) if isinstance(variant, str) else None
    if numbers is None:
        raise FormatError(
            f"{CONFIG_NAME}: variant is {show(repr(variant), 40)}; it must be one of {listing(_NUMBERS)}."
        )
    return numbers


def check(config: AdapterConfig) -> None:
    """Refuse a variant that does not exist."""
    _numbers(config)


def update(target: Target) -> Multiplied:
    """Return dW of one module as W0 times its rotations."""
    theta, alpha = (target.part(f"road_{name}").double() for name in ("theta", "alpha"))
    half = target.config.rank_in("group_size", _GROUP) // 2
    numbers = _numbers(target.config)
    cosines, sines = (
        _by_pair(alpha * part, half, numbers, which) for which, part in enumerate((theta.cos(), theta.sin()))
    )
    rows = [torch.stack([cosines[..., 0], -sines[..., 0]], -1), torch.stack([sines[..., 1], cosines[..., 1]], -1)]
    blocks = torch.stack(rows, -2).reshape(-1, 2, 2)
    order = torch.arange(2 * len(blocks)).reshape(-1, 2, half).mT.flatten()
    return Multiplied(target.base(), (Blocks(blocks, order),))


def _by_pair(values: torch.Tensor, half: int, numbers: int, which: int) -> torch.Tensor:
    """Return the cosines (which = 0) or the sines (1) of every pair's first and second output [groups, half, 2]."""
    if numbers == 1:
        return values.reshape(-1, half, 1).expand(-1, -1, 2)
    if numbers == 4:
        values = values.reshape(-1, 2, 2 * half)[:, which]
    return values.reshape(-1, 2, half).mT


ROAD = Family(
    method="ROAD",
    parse=by_suffix("road_theta", "road_alpha"),
    update=update,
    label=called("RoAd"),
    fits=fits,
    check=check,
)
