"""VeRA (arXiv:2310.11454) and PVeRA: `dW = diag(b) B diag(d) A` with A and B shared by all modules, cut to each.

`vera_A [r, largest in]`, `vera_B [largest out, r]`. PVeRA's A and d have r rows more, for the logarithm of a variance
that acts in training alone. Where the projections are not saved they are drawn as PEFT does: A, then B, uniform within
`sqrt(6 / fan in)`, and moved to the dtype of the base.
"""

import math

import torch

from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.families.drawn import DRAWN_AGAIN, generator_of, seed_of
from spectra.loaders.adapters.families.stored import disagreement, shape_of, unfit
from spectra.loaders.adapters.family import Family, Fit, Shapes, Target, by_suffix, called, never
from spectra.updates import LowRank


def _is_drawn(config: AdapterConfig) -> bool:
    return "save_projection" in config.raw and not config.flag_in("save_projection")


def notes(config: AdapterConfig) -> tuple[str, ...]:
    """Say where the projections come from when the file has none."""
    return (DRAWN_AGAIN,) if _is_drawn(config) else ()


def _drawn(shape: tuple[int, int], generator: torch.Generator) -> torch.Tensor:
    bound = math.sqrt(3) * (math.sqrt(2) / math.sqrt(shape[1]))
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def _family(method: str, name: str, spread: int) -> Family:
    """Return VeRA, or PVeRA, whose A and d have `spread` = 2 times r rows."""
    prefix = method.lower()
    b, d = f"{prefix}_lambda_b", f"{prefix}_lambda_d"

    def fits(module: str, parts: Shapes, config: AdapterConfig) -> Fit:
        outputs, rows = shape_of(module, parts, b, 1)[0], shape_of(module, parts, d, 1)[0]
        if rows % spread:
            raise disagreement(module, parts)
        return outputs, None

    def rank(parts: Shapes, config: AdapterConfig) -> int:
        return shape_of("", parts, d, 1)[0] // spread

    def projections(target: Target, rows: int, r: int) -> tuple[torch.Tensor, torch.Tensor]:
        if not _is_drawn(target.config):
            return target.shared(f"{prefix}_A").float(), target.shared(f"{prefix}_B").float()
        generator = generator_of(seed_of(target.config, "projection_prng_key"))
        widest = max(shape[1] for shape in target.modules().values())
        A = _drawn((spread * r, widest), generator)
        # B is drawn row by row: this module's rows are the first ones, however many the largest module has.
        return target.rounded(A), target.rounded(_drawn((rows, r), generator))

    def update(target: Target) -> LowRank:
        scales, gains = target.part(b), target.part(d)
        r, width = len(gains) // spread, target.shape[1]
        A, B = projections(target, len(scales), r)
        if len(A) != len(gains) or B.shape[1] != r or A.shape[1] < width or len(B) < len(scales):
            raise unfit(target.module, f"{prefix}_A", tuple(A.shape), target.layout.stored_shape)
        return LowRank(scales[:, None] * B[: len(scales)] * gains[:r], A[:r, :width])

    return Family(
        method=method,
        parse=by_suffix(b, d),
        update=update,
        label=called(name),
        rank=rank,
        fits=fits,
        needs_base=never,
        notes=notes,
        shared=f"{prefix}_[AB]",
    )


VERA = _family("VERA", "VeRA", 1)
PVERA = _family("PVERA", "PVeRA", 2)
