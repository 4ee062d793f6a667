"""MiSS (arXiv:2409.15371) and Bone, as PEFT called it before: one small matrix M repeated over the weight.

`dW[o, i] = M[i mod r, o]` with M `[r, out]`; "mini" has M `[r, mini_r]` and takes `o mod mini_r`; "bat" has
`M [out / r, r, r]` and, with W0 cut into blocks of r by r, `dW[O, I] = W0[O, I] M[O] + M[O]`.
"""

import torch

from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.families.stored import disagreement, shape_of, unfit
from spectra.loaders.adapters.family import Family, Fit, Shapes, Target, by_suffix, called
from spectra.updates import Dense, LowRank, Update


def _family(method: str, name: str) -> Family:
    block = f"{method.lower()}_block"

    def needs_base(parts: Shapes, config: AdapterConfig) -> bool:
        return len(parts.get(block, ())) == 3

    def fits(module: str, parts: Shapes, config: AdapterConfig) -> Fit:
        if not needs_base(parts, config):
            r, width = shape_of(module, parts, block)
            return None if _is_mini(config) else width, None
        count, r, other = parts[block]
        if r != other:
            raise disagreement(module, parts)
        return count * r, None

    def rank(parts: Shapes, config: AdapterConfig) -> int | None:
        return None if needs_base(parts, config) else min(shape_of("", parts, block))

    def update(target: Target) -> Update:
        M, (m, n) = target.part(block), target.shape
        if M.ndim == 3:
            return _bat(target, M, block)
        r, width = M.shape
        if (m % width if _is_mini(target.config) else m != width) or r > n:
            raise unfit(target.module, block, (r, width), target.layout.stored_shape)
        if width < r:
            return LowRank(_repeated(width, m).T, M.T[:, torch.arange(n) % r])
        return LowRank(M.T[torch.arange(m) % width], _repeated(r, n))

    return Family(
        method=method,
        parse=by_suffix(block),
        update=update,
        label=called(name),
        rank=rank,
        fits=fits,
        needs_base=needs_base,
    )


def _is_mini(config: AdapterConfig) -> bool:
    return config.raw.get("init_weights") == "mini"


def _repeated(size: int, length: int) -> torch.Tensor:
    """Return the identity of a size repeated along its columns, cut to a length."""
    return torch.eye(size)[:, torch.arange(length) % size]


def _bat(target: Target, M: torch.Tensor, name: str) -> Dense:
    (m, n), (count, r, _) = target.shape, M.shape
    if n % r:
        raise unfit(target.module, name, tuple(M.shape), target.layout.stored_shape)
    blocks = target.base().reshape(count, r, n // r, r)
    return Dense((torch.einsum("oaib,obc->oaic", blocks, M) + M[:, :, None]).reshape(m, n))


MISS = _family("MISS", "MiSS")
BONE = _family("BONE", "Bone")
