"""What each leading direction of the tuned weight is made of: the base, and single directions of the update."""

from dataclasses import dataclass

import torch

from spectra.engine.decomposition import resolution
from spectra.engine.projections import Projections
from spectra.engine.update_directions import Directions
from spectra.updates import Update


@dataclass(frozen=True, slots=True)
class Attribution:
    """The strongest direction of the update in each leading singular value of W.

    With `dW = sum_i s_i a_i b_i^T`, `sigma_j = u_j.W0 v_j + sum_i s_i (u_j.a_i)(b_i.v_j)`.

    directions : how many i were looked at, strongest first; every one of a factored update.
    direction, direction_share : of each j, the i (0 = strongest) whose term is largest in size, and that term over
    sigma_j, which may be below 0 or above 1; None and 0 where sigma_j is zero to rounding or no i was looked at.
    Values of dW that float32 does not tell apart count as one direction, named by the first of them: only the sum of
    their terms does not depend on which vectors an algorithm returns.
    rest : what the directions not looked at add, over sigma_j: of a factored update what rounding leaves.
    """

    directions: int
    direction: tuple[int | None, ...]
    direction_share: tuple[float, ...]
    rest: tuple[float, ...]


def attribution(
    seen: Projections, directions: Directions, update: Update, tuned_values: torch.Tensor, *, k: int
) -> Attribution:
    """Attribute the top `min(k, p)` singular values of W to single directions of the update.

    seen : the leading vectors of W as they meet the update. directions : of the same update. tuned_values : singular
    values of W, descending. Cost: `O(k r q + (m + n) r q)` for q directions of factors of rank r.
    """
    sigma = tuned_values[:k].double()
    defined = sigma > (resolution(float(sigma[0]), update.shape) if len(sigma) else 0.0)
    share = torch.where(defined, 1 / sigma, 0.0)[:, None] * _terms(seen, directions, update)[: len(sigma)]
    label = directions.tied()
    together = share.new_zeros(len(sigma), int(label[-1]) + 1 if len(label) else 0).index_add_(1, label, share)
    whole = torch.where(defined, seen.moved[: len(sigma)] / sigma, 0.0)
    if not together.shape[1]:
        return Attribution(0, (None,) * len(sigma), (0.0,) * len(sigma), tuple(whole.tolist()))
    strongest = together.abs().argmax(1)
    first = torch.searchsorted(label, strongest).tolist()
    return Attribution(
        directions=len(directions),
        direction=tuple(i if there else None for i, there in zip(first, defined.tolist(), strict=True)),
        direction_share=tuple(together.gather(1, strongest[:, None])[:, 0].tolist()),
        rest=tuple((whole - share.sum(1)).tolist()),
    )


def _terms(seen: Projections, directions: Directions, update: Update) -> torch.Tensor:
    """Return `s_i (u_j.a_i)(b_i.v_j)` [k, q], by way of the factors: `u_j.B A b_i = s_i u_j.a_i`."""
    factors = update.factors
    if factors is None:  # B is the identity and A is dW
        images, coimages = directions.left * directions.values, directions.left
    else:
        B, A = factors
        images, coimages = A.double() @ directions.right, B.double().T @ directions.left
    return (seen.left @ images) * (seen.right @ coimages) / directions.values
