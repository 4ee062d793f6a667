"""DEFT: part of the output space of W0 emptied, and filled anew.

With Q the orthonormal factor of P (QR) or P itself (relu), and N = Q or relu(P): `dW = Q (s R - N^T W0)`, s = alpha / r
where an alpha is given, else 1. Without R (PaRa, arXiv:2412.19040) the space is only emptied: `dW = -Q N^T W0`.
"""

import torch

from spectra.errors import MatchError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix
from spectra.text import listing, show
from spectra.updates import LowRank, Update


def label(config: AdapterConfig, parts: Shapes) -> str:
    """Name the method as people do."""
    return "DEFT" if "deft_R" in parts else "PaRa"


def rank(parts: Shapes, config: AdapterConfig) -> int:
    """Return the rank: the number of columns of P."""
    return parts["deft_P"][1]


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int] | None:
    """Return the `[out, in]` shape of `P R`, None without R."""
    P, R = parts.get("deft_P"), parts.get("deft_R")
    if P is None or len(P) != 2 or (R is None and not config.flag_in("para")):
        raise MatchError(f"'{show(module)}': its deft_P or deft_R is missing ({listing(parts)} is there).")
    if R is not None and (len(R) != 2 or R[0] != P[1]):
        raise MatchError(f"'{show(module)}': its P {list(P)} and R {list(R)} disagree on the rank.")
    return None if R is None else (P[0], R[1])


def update(target: Target) -> Update:
    """Return dW in factors."""
    P, base = target.part("deft_P").double(), target.base().double()
    if len(P) != len(base):
        raise MatchError(f"'{show(target.module)}': its deft_P has {len(P)} rows, the base {len(base)} outputs.")
    orthonormal = target.config.raw.get("decomposition_method", "relu") == "qr"
    Q = torch.linalg.qr(P).Q if orthonormal else P
    emptied = (Q if orthonormal else P.relu()).T @ base
    if target.config.flag_in("para"):
        return LowRank(Q.float(), -emptied.float())
    alpha = target.config.raw.get("alpha")
    scaling = target.config.number_in("alpha", 0.0) / P.shape[1] if alpha else 1.0
    return LowRank(Q.float(), (target.part("deft_R").double() * scaling - emptied).float())


DEFT = Family(
    method="DEFT",
    parse=by_suffix("deft_[PR]"),
    update=update,
    label=label,
    rank=rank,
    fits=fits,
)
