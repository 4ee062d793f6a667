"""The filters of orthogonal wavelets, from their definition, and one step of the inverse transform of a signal."""

import math

import torch

from spectra.loaders.adapters.families.unread import WAVELETS


def lowpass(name: str) -> torch.Tensor:
    """Return the reconstruction filter of a Daubechies wavelet, float64 [2 N], its sum sqrt(2).

    `h(z) = (1 + 1/z)^N prod_i (1 - z_i / z)`, z_i the roots inside the unit circle of
    `sum_k C(N - 1 + k, k) y^k` with `y = (2 - z - 1/z) / 4` (Daubechies, 1988). name : one of `WAVELETS`.
    """
    order = WAVELETS[name]
    taps = torch.ones(1, dtype=torch.complex128)
    for root in (*_inner_roots(order), *[-1.0] * order):
        shifted = torch.nn.functional.pad(taps, (1, 0)) * root
        taps = torch.nn.functional.pad(taps, (0, 1)) - shifted
    return taps.real * (math.sqrt(2) / taps.real.sum())


def _inner_roots(order: int) -> list[complex]:
    terms = [math.comb(order - 1 + k, k) for k in range(order)]
    if order == 1:
        return []
    companion = torch.zeros(order - 1, order - 1, dtype=torch.float64)
    companion[1:, :-1] = torch.eye(order - 2, dtype=torch.float64)
    companion[:, -1] = -torch.tensor(terms[:-1], dtype=torch.float64) / terms[-1]
    half = 1 - 2 * torch.linalg.eigvals(companion)  # z + 1/z = 2 half
    shift = torch.sqrt(half * half - 1)
    small = torch.where((half - shift).abs() < 1, half - shift, half + shift)
    return [complex(root) for root in small]


def highpass(low: torch.Tensor) -> torch.Tensor:
    """Return the mirror filter of a lowpass filter: `g[k] = (-1)^k h[L - 1 - k]`."""
    signs = torch.ones_like(low)
    signs[1::2] = -1
    return signs * low.flip(0)


def synthesis(taps: torch.Tensor, coefficients: int, length: int) -> torch.Tensor:
    """Return the map [length, coefficients] from coefficients to a signal: each adds its filter, two places on.

    Of the `2 coefficients - 2 + L` places that leaves, L - 2 are cut at both ends, and then, where one is left
    over, the last.
    """
    reach = len(taps)
    whole = taps.new_zeros(2 * coefficients - 2 + reach, coefficients)
    index = torch.arange(coefficients)
    for tap in range(reach):
        whole[2 * index + tap, index] = taps[tap]
    return whole[reach - 2 : reach - 2 + length]
