"""C3A (arXiv:2407.19342): dW of circulant blocks, each one stored row.

With b the size of the blocks, `dW[i b + p, j b + q] = w[i, j, (q - p) mod b] / in`.
"""

import torch

from spectra.errors import MatchError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix, called, never
from spectra.text import show
from spectra.updates import Dense, Update


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int]:
    """Return the `[out, in]` shape of the blocks together."""
    shape = parts["c3a_kernel"]
    if len(shape) != 3:
        raise MatchError(f"'{show(module)}': its c3a_kernel is {list(shape)}, not [out / b, in / b, b].")
    return shape[0] * shape[2], shape[1] * shape[2]


def update(target: Target) -> Update:
    """Return dW in full."""
    kernel = target.part("c3a_kernel")
    turn = torch.arange(kernel.shape[2])
    blocks = kernel[:, :, (turn[None, :] - turn[:, None]) % len(turn)]  # [out / b, in / b, b, b]
    return Dense(blocks.transpose(1, 2).reshape(target.shape) / target.shape[1])


C3A = Family(
    method="C3A",
    parse=by_suffix("c3a_kernel"),
    update=update,
    label=called("C3A"),
    fits=fits,
    needs_base=never,
)
