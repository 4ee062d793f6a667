"""OFT (arXiv:2306.07280) in the three formats that PEFT has had: W0 times a block-diagonal rotation R.

PEFT 0.16 and later: `oft_R.weight [blocks, b (b - 1) / 2]`, upper triangles of skew Q. R is the Cayley map of Q, or a
series of the Cayley map of -Q that is cut off and then no rotation. `W' = W0 R^T`; of an embedding `W0 R`.
PEFT 0.14 and 0.15: `oft_r [blocks, b, b]` and `oft_s [out, 1]`: `W' = diag(s) W0 R^T`, R the map of the skew part.
PEFT up to 0.13: `oft_r` alone, on the outputs: `W' = R^T W0`, the last block cut where they do not divide.
One block may be shared by all, and a constraint (COFT) caps the norm of each. Kernels larger than one pixel: the
unmerged forward pass of PEFT 0.16 to 0.21 is no convolution with one kernel, and dW is what its merge adds.
"""

import math
import re

import torch

from spectra.errors import FormatError
from spectra.loaders.adapters.config import CONFIG_NAME, AdapterConfig
from spectra.loaders.adapters.families.cayley import capped, cayley, series, skew, skew_of_triangle
from spectra.loaders.adapters.families.stored import disagreement, shape_of, unfit
from spectra.loaders.adapters.family import Family, Fit, Shapes, Target, by_suffix, called
from spectra.text import show
from spectra.updates import Blocks, Multiplied, Rescaled, Stacked, Update

_EPS, _TERMS = 6e-5, 5  # PEFT's defaults
_VERSION = re.compile(r"(\d+)\.(\d+)")


def fits(module: str, parts: Shapes, config: AdapterConfig) -> Fit | None:
    """Return the size of the rotated axis where the file has it: that of the blocks together, if none is shared."""
    name = _name(parts)
    if name == "oft_r":
        count, b, other = shape_of(module, parts, name, 3)
        if b != other:
            raise disagreement(module, parts)
        if "oft_s" in parts:
            return math.prod(parts["oft_s"]), _rotated(count, b, config)
        if "oft_block_size" in config.raw:  # that of PEFT 0.14, which has it: nothing rotates the outputs then
            shape_of(module, parts, "oft_s")
        return None
    count, entries = shape_of(module, parts, name)
    if config.raw.get("use_cayley_neumann") is None:
        raise FormatError(
            f"{CONFIG_NAME} does not say use_cayley_neumann, which decides about the sign of every rotation of "
            f"'{show(module)}'. Take the file that PEFT saved beside the tensors."
        )
    b = _block_size(entries)
    if b * (b - 1) // 2 != entries:
        raise disagreement(module, parts)
    return None, _rotated(count, b, config)


def _name(parts: Shapes) -> str:
    return next((name for name in ("oft_r", "oft_embedding_R") if name in parts), "oft_R")


def _rotated(count: int, b: int, config: AdapterConfig) -> int | None:
    return None if count == 1 and config.flag_in("block_share") else count * b


def _block_size(entries: int) -> int:
    return (1 + math.isqrt(1 + 8 * entries)) // 2


def doubts(module: str, parts: Shapes, config: AdapterConfig) -> list[str]:
    """Say which of two series was taken."""
    if _name(parts) == "oft_r" or not config.flag_in("use_cayley_neumann") or _terms(config) < 3 or _is_new(config):
        return []
    return ["saved by a PEFT before 0.18 and read with its series; later versions compute another from this file"]


def _terms(config: AdapterConfig) -> int:
    return config.rank_in("num_cayley_neumann_terms", _TERMS)


def _is_new(config: AdapterConfig) -> bool:
    """Return whether PEFT 0.18 or later made the file: it writes its version since then, and changed the series."""
    version = config.raw.get("peft_version")
    found = _VERSION.match(version) if isinstance(version, str) else None
    return found is not None and (int(found[1]), int(found[2])) >= (0, 18)


def coefficients(config: AdapterConfig) -> list[float]:
    """Return those of Q, Q^2, ... in the series: 2 for all, and since PEFT 0.18 1 for the last of three or more."""
    terms = _terms(config)
    if terms < 3 or not _is_new(config):
        return [2.0] * (terms - 1)
    return [*[2.0] * (max(3, terms - 1) - 1), 1.0]


def update(target: Target) -> Update:
    """Return dW of one module as W0 times its rotation, which stays in blocks."""
    if "oft_r" in target.parts:
        return _with_scales(target) if "oft_s" in target.parts else _on_the_outputs(target)
    embedding = "oft_embedding_R" in target.parts
    stored = target.part("oft_embedding_R" if embedding else "oft_R").double()
    Q = skew_of_triangle(stored, _block_size(stored.shape[1]))
    if target.config.flag_in("coft"):
        Q = capped(Q, _limit(target.config, len(Q)))
    exact = not target.config.flag_in("use_cayley_neumann")
    R = cayley(Q) if exact else series(Q, coefficients(target.config))
    return Multiplied(target.base(), (_along(R if embedding else R.mT, target, "oft_R"),), axis="columns")


def _limit(config: AdapterConfig, count: int) -> float:
    return config.number_in("eps", _EPS) / math.sqrt(count)


def _along(R: torch.Tensor, target: Target, name: str) -> Blocks:
    """Return the map of the input axis, a shared block repeated."""
    width = target.shape[1]
    if len(R) * R.shape[1] == width:
        return Blocks(R)
    if width % R.shape[1]:
        raise unfit(target.module, name, tuple(R.shape), target.layout.stored_shape)
    return Blocks(R.expand(width // R.shape[1], -1, -1))


def _with_scales(target: Target) -> Update:
    M, gain = target.part("oft_r").double(), target.part("oft_s").flatten()
    if target.config.flag_in("coft"):
        blocks = target.shape[1] // M.shape[1]
        M = capped(M, math.ceil(len(gain) / blocks) ** 2 * _limit(target.config, len(M)))
    base = target.base()
    turned = Multiplied(base, (_along(cayley(skew(M)).mT, target, "oft_r"),), axis="columns")
    return Rescaled(base, turned, gain)


def _on_the_outputs(target: Target) -> Update:
    M, height = target.part("oft_r").double(), target.shape[0]
    count, b, _ = M.shape
    if count == 1 and target.config.flag_in("block_share"):
        count = math.ceil(height / b)
    if math.ceil(height / b) != count:
        raise unfit(target.module, "oft_r", tuple(M.shape), target.layout.stored_shape)
    if target.config.flag_in("coft"):
        M = capped(M, b * b * _limit(target.config, len(M)))
    R, base = cayley(skew(M)).mT.expand(count, -1, -1), target.base()
    whole = height // b
    parts = [Multiplied(base[: whole * b], (Blocks(R[:whole]),))] if whole else []
    if height % b:
        parts.append(Multiplied(base[whole * b :], (Blocks(R[-1:, : height % b, : height % b]),)))
    return parts[0] if len(parts) == 1 else Stacked(tuple(parts))


OFT = Family(
    method="OFT",
    parse=by_suffix("oft_R", "oft_embedding_R", "oft_r", "oft_s"),
    update=update,
    label=called("OFT"),
    fits=fits,
    doubts=doubts,
)
