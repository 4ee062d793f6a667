"""TinyLoRA (arXiv:2602.04118): a few numbers, shared between modules, within leading singular vectors of W0.

`dW = B (sum_i v_i P_i) A`: A and B are stored, P is stored or drawn again, and v belongs to a group of modules, which
are counted in the order in which the model's own code has them.
"""

import torch

from spectra.errors import MatchError, UnsupportedError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.families.drawn import DRAWN_AGAIN, generator_of, seed_of
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix, called, never
from spectra.text import listing, show
from spectra.updates import LowRank, Update


def notes(config: AdapterConfig) -> tuple[str, ...]:
    """Say where the projections come from that are not in the file."""
    return (DRAWN_AGAIN,) if config.raw.get("save_projection") is False else ()


def rank(parts: Shapes, config: AdapterConfig) -> int:
    """Return the rank: the number of rows of A."""
    return parts["tinylora_A"][0]


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int]:
    """Return the `[out, in]` shape of `B A`."""
    A, B, P = (parts.get(f"tinylora_{name}") for name in "ABP")
    if A is None or B is None:
        raise MatchError(f"'{show(module)}': one of its factors is missing ({listing(parts)} is there).")
    if len(A) != 2 or len(B) != 2 or A[0] != B[1] or (P is not None and P[1:] != (A[0], A[0])):
        raise MatchError(f"'{show(module)}': its B {list(B)}, P {list(P or ())} and A {list(A)} do not fit together.")
    return B[0], A[1]


def update(target: Target) -> Update:
    """Return dW in factors."""
    B, A, tying = target.part("tinylora_B"), target.part("tinylora_A"), target.config.number_in("weight_tying", 0.0)
    count, stored = len(target.modules()), target.parts.get("tinylora_P")
    groups = max(1, round(count * (1.0 - tying)))
    place = _place(target) if groups > 1 or stored is None else 0
    v = target.shared(f"tinylora_v.{min(place // max(1, count // groups), groups - 1)}").double()
    P = _projections(target, place, len(v), len(A)) if stored is None else stored
    if len(P) != len(v):
        raise MatchError(f"'{show(target.module)}': {len(v)} numbers for {len(P)} projections.")
    return LowRank((B.double() @ torch.einsum("i,ijk->jk", v, P.double())).float(), A)


def _place(target: Target) -> int:
    """Return where a module stands in the order in which the model's own code has them."""
    order = target.walk()
    if order is None:
        raise UnsupportedError(
            f"'{show(target.module)}': which numbers of this TinyLoRA adapter are its own depends on the order of the "
            "modules in the model, which is not known for this architecture. Give the base as the model itself (an "
            "nn.Module), whose order that is."
        )
    return list(order).index(target.module)


def _projections(target: Target, place: int, count: int, rank: int) -> torch.Tensor:
    generator = generator_of(seed_of(target.config, "projection_seed") + place)
    return target.rounded(torch.normal(0.0, 1.0 / rank**0.5, (count, rank, rank), generator=generator))


TINYLORA = Family(
    method="TINYLORA",
    parse=by_suffix("tinylora_[ABP]"),
    update=update,
    label=called("TinyLoRA"),
    rank=rank,
    fits=fits,
    needs_base=never,
    notes=notes,
    shared=r"tinylora_v\.\d+",
)
