"""GLoRA (arXiv:2306.07967) as LyCORIS has it: matrix products, where PEFT's are elementwise.

`dW = s (W0 a1 a2 + b1 b2)`, s = alpha / r. On a convolution a1 a2 mixes the input channels, at each place of the kernel
alike, and b1 b2 is a LoCon, with a `bm` in the middle a Tucker one.
"""

import math

import torch

from spectra.errors import MatchError
from spectra.layout import Layout
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family, Shapes, Target, always, by_suffix, called
from spectra.text import listing, show
from spectra.updates import Dense, LowRank, Update

_PARTS = ("a1", "a2", "b1", "b2")


def dimension(parts: Shapes) -> int | None:
    """Return the rank that alpha is divided by."""
    shape = parts.get("a2")
    return shape[0] if shape else None


def _kernel(parts: Shapes) -> int:
    return math.prod(parts["bm" if "bm" in parts else "b2"][2:])


def rank(parts: Shapes, config: AdapterConfig) -> int | None:
    """Return the rank of both products: that of the first counts once for each place of the kernel."""
    if not all(part in parts for part in _PARTS):
        return None
    return parts["a2"][0] * _kernel(parts) + parts["b2"][0]


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int]:
    """Return the `[out, in]` shape of the update. Raises MatchError when a part is missing or ranks disagree."""
    missing = [part for part in _PARTS if len(parts.get(part, ())) < 2]
    if missing:
        raise MatchError(f"'{show(module)}': its {listing(missing)} is missing ({listing(parts)} is there).")
    a1, a2, b1, b2 = (parts[part] for part in _PARTS)
    middle = parts.get("bm", (b1[1], b2[0]))
    pointwise = [a1, a2, b1, *([b2] if "bm" in parts else [])]
    chain = (a1[1], a1[0], b1[1], b2[1]) == (a2[0], a2[1], middle[0], a2[1]) and middle[1] == b2[0]
    if not chain or any(math.prod(shape[2:]) != 1 for shape in pointwise):
        shapes = [f"{part} {list(parts[part])}" for part in (*_PARTS, "bm") if part in parts]
        raise MatchError(f"'{show(module)}': its factors {listing(shapes)} do not fit together.")
    return b1[0], b2[1] * _kernel(parts)


def update(target: Target) -> Update:
    """Return dW of one module as factors of both products, entry by entry where those would be larger."""
    a1, a2, b1, b2 = (target.part(part).flatten(1) for part in _PARTS)
    if "bm" in target.parts:
        b2 = torch.einsum("pq...,qi->pi...", target.part("bm"), b2).flatten(1)
    scaling, (m, n) = target.config.scaling_of(target.module), target.shape
    _require_channels(target, a1)
    mixed = torch.einsum("oik,ip->opk", target.base().reshape(m, len(a1), -1), a1)
    if mixed[0].numel() + len(b2) >= min(m, n):
        first = torch.einsum("opk,pi->oik", mixed, a2).reshape(m, n)
        return Dense(scaling * (first + b1 @ b2))
    spread = torch.kron(a2.contiguous(), torch.eye(mixed.shape[2]))
    return LowRank(scaling * torch.cat([mixed.flatten(1), b1], 1), torch.cat([spread, b2]))


def _require_channels(target: Target, a1: torch.Tensor) -> None:
    layout: Layout = target.layout
    channels = layout.stored_shape[1] if layout.kind == "kernel" else layout.shape[1]
    if len(a1) != channels:
        raise MatchError(f"'{show(target.module)}': its a1 mixes {len(a1)} input channels, the base has {channels}.")


GLORA_FLAT = Family(
    method="GLORA (LyCORIS)",
    parse=by_suffix("a1", "a2", "b1", "b2", "bm", "alpha", "scalar"),
    update=update,
    label=called("GLoRA"),
    rank=rank,
    fits=fits,
    needs_base=always,
)
