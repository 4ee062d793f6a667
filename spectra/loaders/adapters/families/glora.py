"""GLoRA (arXiv:2306.07967) as PEFT has it, entry by entry: `dW = W0 o A + B`.

A and B are each low rank (`Xd Xu`), a value for each output, one value, or nothing; the parts C, D and E are of the
bias.
"""

import torch

from spectra.errors import MatchError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family, Shapes, Target, by_path, called
from spectra.text import listing, show
from spectra.updates import Elementwise, LowRank, Rescaled, Sum, Update, nothing


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int] | None:
    """Return the `[out, in]` shape of the low-rank parts, None without any."""
    if not any(part.startswith(("glora_A.", "glora_B.")) for part in parts):
        raise MatchError(f"'{show(module)}': its parts A and B are missing ({listing(parts)} is there).")
    for side in "AB":
        down, up = parts.get(f"glora_{side}.Xd"), parts.get(f"glora_{side}.Xu")
        if down is not None and up is not None and len(down) == len(up) == 2 and down[1] == up[0]:
            return down[0], up[1]
        if down is not None or up is not None:
            raise MatchError(f"'{show(module)}': the factors of its part {side} do not fit together.")
    return None


def needs_base(parts: Shapes, config: AdapterConfig) -> bool:
    """Say whether the base is needed: where there is a part A."""
    return "glora_A.Xd" in parts or "glora_A.X" in parts


def update(target: Target) -> Update:
    """Return `W0 o A + B`."""
    parts = [part for part in (_times(target), _added(target)) if part is not None]
    if len(parts) < 2:
        return parts[0] if parts else nothing(target.shape, torch.zeros(0))
    return Sum(tuple(parts))


def _times(target: Target) -> Update | None:
    factors, gain = _factors(target, "A"), target.parts.get("glora_A.X")
    if factors is not None:
        return Elementwise(target.base(), factors)
    if gain is None:
        return None
    base = target.base()
    return Rescaled(base, nothing(target.shape, base), _by_row(gain, target) + 1)


def _added(target: Target) -> Update | None:
    value = target.parts.get("glora_B.X")
    if value is None:
        return _factors(target, "B")
    return LowRank(_by_row(value, target)[:, None], torch.ones(1, target.shape[1]))


def _factors(target: Target, side: str) -> LowRank | None:
    if f"glora_{side}.Xd" not in target.parts:
        return None
    return LowRank(target.part(f"glora_{side}.Xd"), target.part(f"glora_{side}.Xu"))


def _by_row(value: torch.Tensor, target: Target) -> torch.Tensor:
    if value.numel() not in (1, target.shape[0]):
        raise MatchError(f"'{show(target.module)}': {value.numel()} values for its {target.shape[0]} outputs.")
    return value.float().flatten().expand(target.shape[0])


GLORA = Family(
    method="GLORA",
    parse=by_path("glora_[A-E]", "Xd|Xu|X|zeros"),
    update=update,
    label=called("GLoRA"),
    fits=fits,
    needs_base=needs_base,
)
