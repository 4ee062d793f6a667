"""Uni-LoRA (arXiv:2506.00799): every entry of every factor is one of few numbers.

The entries of all A and B, one module after the other in the order in which the model's own code has them, take
numbers of one vector theta, each as often as the others (once more for some, drawn), in an order drawn from a seed,
divided by the root of how often they are taken; `dW = B A`.
"""

from functools import lru_cache

import numpy as np
import torch

from spectra.errors import MatchError, UnsupportedError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.families.drawn import DRAWN_AGAIN, seed_of
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix, called, never
from spectra.text import show
from spectra.updates import LowRank, Update


def notes(config: AdapterConfig) -> tuple[str, ...]:
    """Say where the indices come from."""
    return () if config.flag_in("save_indices") else (DRAWN_AGAIN,)


def rank(parts: Shapes, config: AdapterConfig) -> int:
    """Return the rank of the factors."""
    return config.rank_in("r", 4)


def update(target: Target) -> Update:
    """Return `B A`, both put together from theta."""
    (m, n), r = target.shape, target.config.rank_in("r", 4)
    if r > min(m, n):
        raise MatchError(f"'{show(target.module)}' is {m} x {n}, and the configuration says r = {r}. Is this its base?")
    theta = target.shared("unilora_theta_d").double().flatten()
    if "unilora_indices_A" in target.parts:
        A, B = (_stored(target, side, theta) for side in "AB")
    else:
        index, often = _drawn(target, len(theta))
        scales = target.rounded(often.float().rsqrt()).double()
        entries = theta[index] * scales[index]
        A, B = entries[: r * n].reshape(r, n), entries[r * n :].reshape(m, r)
    return LowRank(B.float(), A.float())


def _stored(target: Target, side: str, theta: torch.Tensor) -> torch.Tensor:
    index = target.parts[f"unilora_indices_{side}"].long()
    if int(index.min()) < 0 or int(index.max()) >= len(theta):
        raise MatchError(f"'{show(target.module)}': an index beyond the {len(theta)} numbers of theta.")
    return theta[index] * target.part(f"unilora_scales_{side}")


def _drawn(target: Target, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the module's indices into theta, those of A first, and how often each number is taken by all modules."""
    order, shapes = target.walk(), target.modules()
    if order is None:
        raise UnsupportedError(
            "which numbers of this UniLoRA adapter a module takes depends on the order of the modules in the model, "
            "which is not known for this architecture. Give the base as the model itself (an nn.Module), whose order "
            "that is, or save the adapter with save_indices=True."
        )
    r = target.config.rank_in("r", 4)
    sizes = [r * sum(shapes[name]) for name in order]
    index, often = _shuffled(sum(sizes), length, seed_of(target.config, "proj_seed"))
    place = list(order).index(target.module)
    first = sum(sizes[:place])
    return torch.from_numpy(index[first : first + sizes[place]]), torch.from_numpy(often)


@lru_cache(maxsize=1)
def _shuffled(count: int, length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    index = np.repeat(np.arange(length), count // length)
    if count % length:
        index = np.concatenate([index, generator.choice(length, size=count % length, replace=False)])
    generator.shuffle(index)
    return index, np.bincount(index, minlength=length)


UNILORA = Family(
    method="UNILORA",
    parse=by_suffix("unilora_(?:indices|scales)_[AB]"),
    update=update,
    label=called("Uni-LoRA"),
    rank=rank,
    needs_base=never,
    notes=notes,
    shared="unilora_theta_d",
    integers=("unilora_indices_A", "unilora_indices_B"),
    everywhere=True,
)
