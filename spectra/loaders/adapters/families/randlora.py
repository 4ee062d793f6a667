"""RandLoRA (arXiv:2502.00987): a sum of random products, scaled along both of their inner dimensions, of full rank.

Of shared `A [r, 1, least]` and `B [most, count, r]`, cut to the dimensions of the module, PEFT multiplies
`s B' A'`, s = alpha / r, where A' stacks the rows `lambda[i, j] A[i] o gamma[j]` in the order of (i, j) and B' its
columns in the order of (j, i); transposed where there are more inputs than outputs.
"""

import torch

from spectra.errors import MatchError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix, called, never
from spectra.text import show
from spectra.updates import Dense, Update


def fits(module: str, parts: Shapes, config: AdapterConfig) -> None:
    """Raise MatchError where lambda and gamma disagree; the shape is that of the base."""
    scale, gamma = parts.get("randlora_lambda"), parts.get("randlora_gamma")
    if scale is None or gamma is None or len(scale) != 2 or len(gamma) != 2 or scale[1] != gamma[0]:
        raise MatchError(
            f"'{show(module)}': its randlora_lambda {list(scale or ())} and randlora_gamma {list(gamma or ())} do not "
            "fit together."
        )


def update(target: Target) -> Update:
    """Return dW in full: its rank is not bounded."""
    config, (m, n) = target.config, target.shape
    least, most = min(m, n), max(m, n)
    A, B = (_basis(target, name) for name in ("randlora_A", "randlora_B"))
    scale, gamma = target.part("randlora_lambda").double(), target.part("randlora_gamma").double()
    r, count = scale.shape
    if A.shape[0] != r or A.shape[-1] < least or B.shape[0] < most or B.shape[1] < count or B.shape[2] != r:
        raise MatchError(
            f"'{show(target.module)}': the bases A {list(A.shape)} and B {list(B.shape)} are too small for a matrix "
            f"{[m, n]} and lambda {[r, count]}."
        )
    right = (scale[:, :, None] * A[:, :, :least] * gamma).flatten(0, 1)
    product = B[:most, :count].flatten(1) @ right * (config.number_in("randlora_alpha", 640) / r)
    return Dense((product if least == n else product.T).float())


def _basis(target: Target, name: str) -> torch.Tensor:
    """Return a random basis: the module's own copy, as PEFT writes it too, or the shared one."""
    stored = target.parts.get(name)
    return (target.shared(name) if stored is None else stored).double()


RANDLORA = Family(
    method="RANDLORA",
    parse=by_suffix(r"randlora_(?:lambda|gamma|A|B)"),
    update=update,
    label=called("RandLoRA"),
    fits=fits,
    needs_base=never,
    shared=r"randlora_[AB]",
)
