"""PSOFT (https://openreview.net/forum?id=FSHrinMArK): a rotation R within the leading singular vectors of W0.

`dW = U_r S_r (R - I) V_r^T`, or `U_r sqrt(S_r) (R - I) sqrt(S_r) V_r^T`, with `R = diag(b) C diag(a)` and C the
Cayley transform `(I + Q) (I - Q)^-1` of a skew-symmetric Q, its truncated series, or a matrix as stored. The scaling
alpha / r cancels.

The vectors are not stored. Their signs, which R goes with, are those of the library that computed them; the spectrum
of dW and its angles to the singular vectors of W0 do not depend on them.
"""

import torch

from spectra.errors import MatchError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.families.bases import decomposed, require_apart
from spectra.loaders.adapters.families.cayley import capped, cayley, series, skew_of_triangle
from spectra.loaders.adapters.family import Family, Shapes, Target, by_path, called
from spectra.text import show
from spectra.updates import LowRank, Update


def notes(config: AdapterConfig) -> tuple[str, ...]:
    """Say what depends on the machine."""
    return (
        "PSOFT: the singular vectors of the base are computed again; where other signs were trained with, singular "
        "vectors of the update differ, its spectrum and its angles to the base do not",
    )


def rank(parts: Shapes, config: AdapterConfig) -> int:
    """Return the dimension of the rotation."""
    (length, *square) = parts["psoft_R.weight"]
    return length if square else (1 + round((1 + 8 * length) ** 0.5)) // 2


def fits(module: str, parts: Shapes, config: AdapterConfig) -> None:
    """Raise MatchError where the rotation is missing or of no dimension; the shape is that of the base."""
    shape = parts.get("psoft_R.weight")
    r = 0 if not shape else rank(parts, config)
    if shape not in ((r, r), (r * (r - 1) // 2,)):
        raise MatchError(f"'{show(module)}': its psoft_R.weight {list(shape or ())} is no rotation.")


def update(target: Target) -> Update:
    """Return dW in factors."""
    r = rank({part: tuple(tensor.shape) for part, tensor in target.parts.items()}, target.config)
    if r > min(target.shape):
        raise MatchError(f"'{show(target.module)}': a rotation of {r} dimensions in a matrix {list(target.shape)}.")
    U, S, Vh = decomposed(target)
    require_apart(target, S, 1, r)
    split = target.config.raw.get("ab_svd_init", "psoft_init") == "pissa_init"
    left, right = (S[:r].sqrt(), S[:r].sqrt()) if split else (S[:r], torch.ones(r))
    A = (right[:, None] * Vh[:r]).double()
    return LowRank(U[:, :r] * left, ((_rotation(target, r) - torch.eye(r)) @ A).float())


def _rotation(target: Target, r: int) -> torch.Tensor:
    stored = target.part("psoft_R.weight").double()
    R = stored if stored.ndim == 2 else _cayley(stored, r, target.config)
    for part, axis in (("psoft_R.vector_b", 0), ("psoft_R.vector_a", 1)):
        if part in target.parts:
            R = R * target.part(part).double().unsqueeze(1 - axis)
    return R


def _cayley(stored: torch.Tensor, r: int, config: AdapterConfig) -> torch.Tensor:
    Q = skew_of_triangle(stored[None], r)
    if not config.flag_in("use_cayley_neumann"):
        return cayley(-Q)[0]
    if config.raw.get("cayley_neumann_eps") is not None:
        Q = capped(Q, config.number_in("cayley_neumann_eps", 0.0))
    return series(Q, _coefficients(config.rank_in("num_cayley_neumann_terms", 5)))[0]


def _coefficients(terms: int) -> list[float]:
    """Return the coefficients of `I + 2 Q + 2 Q^2 + ...` as PEFT cuts it: the last power counts once.

    Of t terms the last power is t - 1, but 3 for three terms; two terms are `I + 2 Q`.
    """
    return [2.0] * (terms - 1) if terms < 3 else [*[2.0] * (max(terms - 1, 3) - 1), 1.0]


PSOFT = Family(
    method="PSOFT",
    parse=by_path("psoft_R", "weight|vector_[ab]"),
    update=update,
    label=called("PSOFT"),
    rank=rank,
    fits=fits,
    notes=notes,
)
