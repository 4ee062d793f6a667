"""WaveFT (arXiv:2505.12532): few entries of dW, or few coefficients of its wavelet transform.

The n stored values stand at places drawn from a seed. Without the transform they are entries of dW. With it they lie
in the middle of a larger even matrix, whose quarters are the coefficients of one step of the inverse transform, so
that each value is an outer product of two filters: `dW = B A` of rank n.
"""

from collections.abc import Iterator

import torch

from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.families.drawn import DRAWN_AGAIN, places, seed_of
from spectra.loaders.adapters.families.wavelets import highpass, lowpass, synthesis
from spectra.loaders.adapters.family import Family, Target, by_suffix, called, never
from spectra.updates import Dense, Factors, LowRank, Sparse, Update


def notes(config: AdapterConfig) -> tuple[str, ...]:
    """Say where the places of the values come from."""
    return (DRAWN_AGAIN,)


def update(target: Target) -> Update:
    """Return dW: sparse, or in factors where n is below both dimensions."""
    config, shape = target.config, target.shape
    values = target.part("waveft_spectrum").double().flatten() * config.number_in("scaling", 25.0)
    rows, columns = places(target, len(values), seed_of(config, "random_loc_seed"))
    if not _transformed(config):
        return Sparse(rows, columns, values.float(), shape)
    quarters = _quarters(values, rows, columns, shape, lowpass(_wavelet(config)))
    if len(values) >= min(shape):
        return Dense(sum((B @ A for B, A in quarters), start=values.new_zeros(shape)).float())
    B, A = zip(*quarters, strict=True)
    return LowRank(torch.cat(B, dim=1).float(), torch.cat(A).float())


def _quarters(
    values: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, shape: tuple[int, int], low: torch.Tensor
) -> Iterator[Factors]:
    """Yield the factors of each quarter's part of dW, whose inner dimension is the number of its values at most.

    PEFT pairs the quarters crosswise: the right half takes the highpass filter along the rows, the lower half that
    along the columns.
    """
    (m, n), reach = shape, len(low)
    high, half_m, half_n = highpass(low), _half(m, reach), _half(n, reach)
    i, j = rows + (2 * half_m - m) // 2, columns + (2 * half_n - n) // 2
    for lower in (False, True):
        for right in (False, True):
            here = ((i >= half_m) == lower) & ((j >= half_n) == right)
            up, place = torch.unique(i[here] % half_m, return_inverse=True)
            B = synthesis(high if right else low, half_m, m)[:, up]
            across = synthesis(high if lower else low, half_n, n).T
            entries = values.new_zeros(len(up), half_n).index_put((place, j[here] % half_n), values[here])
            yield B, entries @ across


def _half(length: int, reach: int) -> int:
    """Return how many coefficients a half of the larger matrix has."""
    return (length + reach - 1) // 2


def _transformed(config: AdapterConfig) -> bool:
    return config.flag_in("use_idwt") or "use_idwt" not in config.raw


def _wavelet(config: AdapterConfig) -> str:
    return str(config.raw.get("wavelet_family", "db1"))


WAVEFT = Family(
    method="WAVEFT",
    parse=by_suffix("waveft_spectrum"),
    update=update,
    label=called("WaveFT"),
    needs_base=never,
    notes=notes,
)
