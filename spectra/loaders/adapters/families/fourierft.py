"""FourierFT (arXiv:2405.03003): few coefficients of the discrete Fourier transform of dW.

`dW = s Re ifft2(F)`, F zero but for the n stored values, at places drawn from a seed. Each value is one plane wave,
whose real part has rank 2: `dW = B A` of rank 2 n.
"""

import math

import torch

from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.families.drawn import DRAWN_AGAIN, places, seed_of
from spectra.loaders.adapters.family import Family, Target, by_suffix, called, never
from spectra.updates import Dense, LowRank, Update


def notes(config: AdapterConfig) -> tuple[str, ...]:
    """Say where the places of the coefficients come from."""
    return (DRAWN_AGAIN,)


def update(target: Target) -> Update:
    """Return dW, in factors where 2 n is below both dimensions."""
    (m, n), config = target.shape, target.config
    values = target.part("fourierft_spectrum").double().flatten() * config.number_in("scaling", 150.0)
    rows, columns = places(target, len(values), seed_of(config, "random_loc_seed"))
    if 2 * len(values) >= min(m, n):
        F = values.new_zeros(m, n).index_put((rows, columns), values)
        return Dense(torch.fft.ifft2(F).real.float())
    left, right = _waves(rows, m) * (values / (m * n)), _waves(columns, n).T
    B = torch.cat([left.real, -left.imag], dim=1)
    return LowRank(B.float(), torch.cat([right.real, right.imag]).float())


def _waves(frequencies: torch.Tensor, length: int) -> torch.Tensor:
    """Return the waves `exp(2 pi i t f / length)`, complex [length, frequencies]."""
    turns = torch.arange(length)[:, None] * frequencies % length
    phase = turns.double() * (2 * math.pi / length)
    return torch.polar(torch.ones_like(phase), phase)


FOURIERFT = Family(
    method="FOURIERFT",
    parse=by_suffix("fourierft_spectrum"),
    update=update,
    label=called("FourierFT"),
    needs_base=never,
    notes=notes,
)
