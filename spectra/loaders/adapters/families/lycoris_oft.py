"""Orthogonal fine-tuning as LyCORIS and kohya have it: blocks that turn the OUTPUTS, where PEFT's turn the inputs.

From stored blocks M: `Q = M - M^T`, scaled down so that the norm of all blocks together is at most `alpha * out`, and
Cayley's `R = (I + Q)(I - Q)^-1`. diag-OFT (arXiv:2306.07280), blocks `[n, b, b]`: `W'_k = R_k^T W0_k` on the k-th b
rows. BOFT (arXiv:2311.06243), blocks `[m, n, b, b]`: m such stages one after the other, R_k not transposed; stage i
pairs rows at distance `2^i b / 2`. Then each row times `rescale`. An alpha of 0 is no bound for LyCORIS; for kohya,
whose names begin with `oft_`, it is a bound of 0.
"""

import math
from dataclasses import replace

import torch

from spectra.errors import MatchError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix, called
from spectra.text import show
from spectra.updates import Blocks, Multiplied, Update

_KOHYA = "oft_"


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, None]:
    """Return how many outputs are turned. Raises MatchError for blocks that are none, or a rescale that does not."""
    shape = parts.get("oft_blocks", ())
    square = len(shape) in (3, 4) and shape[-1] == shape[-2] > 0
    butterfly = len(shape) == 4 and square
    uneven = butterfly and (shape[0] > shape[1].bit_length() or shape[-1] % 2 or shape[1] % 2 ** (shape[0] - 1))
    if not square or 0 in shape or uneven:
        raise MatchError(f"'{show(module)}': oft_blocks {list(shape)} are no square blocks of a rotation.")
    size, rescale = shape[-3] * shape[-1], parts.get("rescale")
    if rescale is not None and (rescale[:1] != (size,) or math.prod(rescale) != size):
        raise MatchError(f"'{show(module)}': its rescale {list(rescale)} does not fit blocks {list(shape)}.")
    if module.startswith(_KOHYA) and "alpha" not in parts:
        raise MatchError(f"'{show(module)}': its alpha is missing, which bounds the rotation.")
    return size, None


def update(target: Target) -> Update:
    """Return dW of one module as its rotations, on the rows of W0."""
    M = target.parts["oft_blocks"].double()
    W0, size = target.base(), M.shape[-3] * M.shape[-1]
    Q = _bounded(M - M.mT, target, size)
    eye = torch.eye(Q.shape[-1], dtype=Q.dtype)
    if Q.ndim == 3:
        stages = [Blocks(torch.linalg.solve(eye + Q, eye - Q))]
    else:
        turns = torch.linalg.solve(eye - Q, eye + Q)
        stages = [Blocks(turn, _pairs(size, len(eye), stage)) for stage, turn in enumerate(turns)]
    if "rescale" in target.parts:
        stages[-1] = _rescaled(stages[-1], target.parts["rescale"].double().flatten())
    return Multiplied(W0, tuple(Blocks(stage.blocks.float(), stage.order) for stage in reversed(stages)))


def _bounded(Q: torch.Tensor, target: Target, size: int) -> torch.Tensor:
    alpha = target.parts.get("alpha")
    bound = 0.0 if alpha is None else float(alpha.double()) * size
    if bound <= 0 and not target.module.startswith(_KOHYA):
        return Q
    norm = torch.linalg.vector_norm(Q)
    return Q * (bound / norm) if norm > bound else Q


def _pairs(size: int, block: int, stage: int) -> torch.Tensor:
    """Return the order of rows in which the blocks of a stage lie one after the other."""
    return torch.arange(size).view(-1, 2, 2**stage * block // 2).mT.reshape(-1)


def _rescaled(last: Blocks, rescale: torch.Tensor) -> Blocks:
    """Return the last stage with the factor of each row put into its blocks."""
    factors = rescale if last.order is None else rescale[last.order]
    return Blocks(factors.view(len(last.blocks), -1, 1) * last.blocks, last.order)


OFT_FLAT = Family(
    method="OFT (LyCORIS)",
    parse=by_suffix("oft_blocks", "rescale", "alpha"),
    update=update,
    label=called("diag-OFT"),
    fits=fits,
)
BOFT_FLAT = replace(OFT_FLAT, method="BOFT (LyCORIS)", label=called("BOFT"))
