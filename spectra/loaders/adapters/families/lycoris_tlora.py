"""T-LoRA (arXiv:2507.05964) as LyCORIS has it: factors that start at singular vectors of W0, less that start.

`dW = s (P diag(l) Q - P0 diag(l0) Q0)`, s = alpha / r, every rank active as in the last steps of denoising. The start
is not in the file: r singular triplets of W0, its first, its last or those in the middle. Training moves them little,
so they are told by what P and Q still have in common with them; where that is not much, the file is refused.
"""

import math

import torch

from spectra.errors import MatchError, UnsupportedError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix, called
from spectra.text import show
from spectra.updates import LowRank, Update

_ALIKE, _TIED = 0.5, 1e-6


def dimension(parts: Shapes) -> int | None:
    """Return the rank that alpha is divided by."""
    shape = parts.get("q_layer")
    return shape[0] if shape else None


def rank(parts: Shapes, config: AdapterConfig) -> int | None:
    """Return the rank of the factors and of their start together."""
    r = dimension(parts)
    return None if r is None else 2 * r


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int]:
    """Return the `[out, in]` shape of the update. Raises MatchError when a part is missing or ranks disagree."""
    p, q, values = (parts.get(name, ()) for name in ("p_layer", "q_layer", "lambda_layer"))
    if len(p) < 2 or len(q) < 2 or not p[1] == q[0] == math.prod(values) or math.prod(p[2:] + q[2:]) != 1:
        raise MatchError(f"'{show(module)}': p_layer {list(p)}, lambda_layer {list(values)} and q_layer {list(q)} "
                         "are not the three factors of T-LoRA.")  # fmt: skip
    return p[0], q[1]


def doubts(module: str, parts: Shapes, config: AdapterConfig) -> list[str]:
    """Say that the start was found, not read."""
    return ["T-LoRA does not save its start: the singular vectors of this base that are like the factors are taken"]


def update(target: Target) -> Update:
    """Return dW of one module as the factors and their start. Raises UnsupportedError where the start is not found."""
    P, Q = target.parts["p_layer"].double().flatten(1), target.parts["q_layer"].double().flatten(1)
    values = target.parts["lambda_layer"].double().flatten()
    U, S, Vh = torch.linalg.svd(target.base().double(), full_matrices=False)
    r, most = len(Q), len(S)
    if r > most:
        raise UnsupportedError(f"'{show(target.module)}': T-LoRA of rank {r} on a weight of rank {most} is not read.")
    starts = (0, most - r, (most - r) // 2)
    alike = [_alike(P, Q, U[:, first : first + r], Vh[first : first + r]) for first in starts]
    first = starts[alike.index(max(alike))]
    if max(alike) < _ALIKE:
        raise UnsupportedError(
            f"'{show(target.module)}': T-LoRA subtracts the factors it started from, which are not in the file and are "
            "no singular vectors of this base: it began from random ones, or on another base."
        )
    _refuse_ties(target.module, S, first, first + r)
    chosen = slice(first, first + r)
    scaling = target.config.scaling_of(target.module)
    B = torch.cat([P * values, -U[:, chosen] * S[chosen]], 1) * scaling
    return LowRank(B.float(), torch.cat([Q, Vh[chosen]]).float())


def _refuse_ties(module: str, S: torch.Tensor, first: int, end: int) -> None:
    """Refuse a start whose border lies between equal singular values: which vectors it took is not determined."""
    borders = [at for at in (first, end) if 0 < at < len(S)]
    if any(S[at - 1] - S[at] <= _TIED * S[0] for at in borders):
        raise UnsupportedError(
            f"'{show(module)}': T-LoRA subtracts singular vectors of the base that equal singular values leave open."
        )


def _alike(P: torch.Tensor, Q: torch.Tensor, U: torch.Tensor, Vh: torch.Tensor) -> float:
    """Return the mean over pairs of `cos(p, u) cos(q, v)`: 1 at the start, whatever the signs of the vectors."""
    sizes = torch.linalg.vector_norm(P, dim=0) * torch.linalg.vector_norm(Q, dim=1)
    products = (P * U).sum(0) * (Q * Vh).sum(1)
    return float((products / sizes.clamp_min(torch.finfo(sizes.dtype).tiny)).mean())


TLORA = Family(
    method="TLORA",
    parse=by_suffix("p_layer", "q_layer", "lambda_layer", "alpha"),
    update=update,
    label=called("T-LoRA"),
    rank=rank,
    fits=fits,
    doubts=doubts,
)
