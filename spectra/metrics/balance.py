"""How the size of a low-rank update is shared between its two factors: a fact of training, not of dW."""

import math
from dataclasses import dataclass

from spectra.engine.dense import frobenius
from spectra.updates import LowRank, Rescaled, Update


@dataclass(frozen=True, slots=True)
class Balance:
    """The factors as they were trained, the scaling taken out of B. The only numbers of a row that depend on the gauge.

    B, A : Frobenius norms of the factors, 0 where a factor is zero. What lies between the two counts to one of them (a
    diagonal of KaSA, a Tucker core), and pooled inputs are written out (QA-LoRA). scaling : of the method (`alpha / r`,
    `alpha / sqrt(r)`).
    ratio : B / A, infinite where A is zero. imbalance : `||B^T B - A A^T||_F / (||B^T B||_F + ||A A^T||_F)`, 0
    balanced, at most 1: gradient flow conserves the difference (Du, Hu and Lee 2018, arXiv:1806.00900), so that it
    still shows the start; Adam conserves it roughly. Both None where both factors are zero.
    dead : ranks whose column of B and row of A are both zero. The gradient of each is a product with the other, so
    that no training moves them.
    """

    B: float
    A: float
    scaling: float
    ratio: float | None
    imbalance: float | None
    dead: int


def balance(update: Update, scaling: float | None) -> Balance | None:
    """Compare the factors of an update `scaling B A`; of DoRA those of its inner update.

    None where the update is no single pair of factors, the scaling is not one number, or it is zero, which leaves
    nothing of B to be seen. Gauge-dependent: `B Q, Q^-1 A` is the same update with another balance, so it tells of
    training only where the file holds the factors that were trained. Cost: `(m + n) r^2`.
    """
    inner = update.inner if isinstance(update, Rescaled) else update
    if not isinstance(inner, LowRank) or not scaling:
        return None
    B, A = inner.B.double() / scaling, inner.A.double()
    left, right = B.T @ B, A @ A.T
    b, a, both = frobenius(B), frobenius(A), frobenius(left) + frobenius(right)
    dead = ~B.any(0) & ~A.any(1)
    return Balance(
        B=b,
        A=a,
        scaling=scaling,
        ratio=b / a if a else (math.inf if b else None),
        imbalance=frobenius(left - right) / both if both else None,
        dead=int(dead.sum()),
    )
