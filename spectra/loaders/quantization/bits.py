"""Codes out of bytes, small floats out of codes, and scales spread over what they scale."""

import math

import torch

from spectra.loaders.quantization.packing import ceil

Block = tuple[int, int]
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # FP4: a sign, two bits of exponent, one of mantissa
_E2M3 = tuple(m / 8 for m in range(8)) + tuple((1 + m / 8) * 2**e for e in range(3) for m in range(8))


def fields(words: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """Return the first `count` fields of `bits` bits of every row, as uint8: the lowest bits come first.

    words : [..., n] of any integer dtype, each row one stream of bits that passes over the borders of words.
    """
    common = math.gcd(bits, 8)
    n_bytes, n_fields = bits // common, 8 // common  # so many fields end where a byte ends
    stream = words.contiguous().view(torch.uint8)
    stream = torch.nn.functional.pad(stream, (0, -stream.shape[-1] % n_bytes)).reshape(*stream.shape[:-1], -1, n_bytes)
    found = []
    for place in range(n_fields):
        byte, shift = divmod(place * bits, 8)
        field = stream[..., byte] >> shift
        if shift + bits > 8:
            field |= stream[..., byte + 1] << (8 - shift)
        found.append(field.bitwise_and_(2**bits - 1))
    return torch.stack(found, -1).flatten(-2)[..., :count]


def looked_up(codes: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """Return the entry of a table for every code, in the shape of the codes."""
    return table.index_select(0, codes.flatten().int()).reshape(codes.shape)


def fp4(codes: torch.Tensor) -> torch.Tensor:
    """Return FP4 (E2M1) codes as float32."""
    return looked_up(codes, _with_sign(_E2M1))


def fp6(codes: torch.Tensor) -> torch.Tensor:
    """Return FP6 (E2M3) codes as float32."""
    return looked_up(codes, _with_sign(_E2M3))


def _with_sign(magnitudes: tuple[float, ...]) -> torch.Tensor:
    positive = torch.tensor(magnitudes)
    return torch.cat([positive, -positive])


def factors(scale: torch.Tensor) -> torch.Tensor:
    """Return scales as float32; bytes are exponents of two with a bias of 127 (E8M0, in which 255 is no number)."""
    return (scale.view(torch.float8_e8m0fnu) if scale.dtype == torch.uint8 else scale).float()


def grid_shape(shape: tuple[int, ...], block: Block) -> tuple[int, ...]:
    """Return the shape of one number a block, `[..., ceil(m / bm), ceil(n / bn)]`: blocks at the edges are smaller."""
    *stack, m, n = shape
    return (*stack, ceil(m, block[0]), ceil(n, block[1]))


def spread(grid: torch.Tensor, block: Block, shape: tuple[int, ...]) -> torch.Tensor:
    """Return one number a block as something that broadcasts over the last two axes of `shape`."""
    for axis, step in ((-2, block[0]), (-1, block[1])):
        if grid.shape[axis] > 1 and step > 1:
            grid = grid.repeat_interleave(step, axis).narrow(axis, 0, shape[axis])
    return grid
