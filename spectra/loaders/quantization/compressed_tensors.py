"""compressed-tensors, as llm-compressor and vLLM write it: integers, eight-bit floats, NVFP4 and the MX formats."""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from spectra.loaders.header import FLOATS
from spectra.loaders.quantization.bits import Block, factors, fields, fp4, fp6, grid_shape, spread
from spectra.loaders.quantization.packing import Packed, Parts, Weight, ceil, whole
from spectra.loaders.quantization.signs import EIGHT_BIT_FLOATS

_WORD = 32
_MICROSCALED = {8: ("nvfp4", 4, 16), 16: ("mxfp4", 4, 32), 24: ("mxfp6", 6, 32)}  # by bytes a scale: bits, entries
_Grid = Callable[[torch.Tensor, Parts], torch.Tensor]


def read(packed: Packed) -> Weight:
    """Read `W = (q - z) s` by what the tensors of the weight are; the configuration settles what they leave open."""
    if "weight_packed" not in packed:
        return _plain(packed)
    return _integers(packed) if packed.info("weight_packed").dtype == "int32" else _small_floats(packed)


def _plain(packed: Packed) -> Weight:
    """Read codes that are stored one by one: int8, or floats of eight bits."""
    info = packed.info("weight", "int8", *EIGHT_BIT_FLOATS)
    grid = _grid(packed, info.shape, *FLOATS, "uint8")
    if "weight_zero_point" in packed:
        fits = packed.info("weight_zero_point").shape == packed.info("weight_scale").shape
        packed.require(fits, "its weight_zero_point is not of the shape of its weight_scale")
    else:
        _require_symmetric(packed)

    def value(parts: Parts) -> torch.Tensor:
        W = parts("weight").float()
        if "weight_zero_point" in packed:
            W = W - grid(parts("weight_zero_point").float(), parts)
        return W * grid(factors(parts("weight_scale")), parts)

    return Weight(info.shape, info.dtype, value)


def _integers(packed: Packed) -> Weight:
    """Read integers packed into words along the inputs, each stored plus half its range.

    Zero points are packed likewise, along the outputs; old versions stored them one by one.
    """
    shape = packed.extents(packed.small("weight_shape"))
    words = packed.info("weight_packed", "int32").shape
    packed.require(words[:-1] == shape[:-1], f"its words are {list(words)} for {list(shape)}")
    bits, per_word = _width(packed, words[-1], shape[-1])
    grid, scales = _grid(packed, shape, *FLOATS), packed.info("weight_scale").shape
    zeros = packed.info("weight_zero_point", "int32", "int8") if "weight_zero_point" in packed else None
    half = 1 << (bits - 1)
    if zeros is None:
        _require_symmetric(packed)
    else:
        packed_rows = ceil(shape[0] * bits, _WORD) if per_word is None else ceil(shape[0], per_word)
        expected = (packed_rows, *scales[1:]) if zeros.dtype == "int32" else scales
        packed.require(zeros.shape == expected, f"its weight_zero_point is {list(zeros.shape)}, not {list(expected)}")

    def unpacked(words: torch.Tensor, count: int) -> torch.Tensor:
        codes = fields(words, bits, count) if per_word is None else _gapped(words, bits, per_word)[..., :count]
        return codes.float() - half

    def value(parts: Parts) -> torch.Tensor:
        W = unpacked(parts("weight_packed"), shape[-1])
        if zeros is not None:
            z = parts("weight_zero_point")
            z = unpacked(z.T, shape[0]).T if zeros.dtype == "int32" else z.float()
            W -= grid(z, parts)
        return W * grid(factors(parts("weight_scale")), parts)

    return Weight(shape, f"int{bits}", value)


def _width(packed: Packed, words: int, n: int) -> tuple[int, int | None]:
    """Return the bits of an integer, and how many a word has where none passes over the borders of words.

    So old versions packed the widths that do not divide 32. Raises FormatError where the shapes do not tell.
    """
    told = {bits for given in _arguments(packed) if (bits := whole(given.get("num_bits"))) and bits <= 8}
    packed.require(bool(told), "its configuration has no num_bits up to 8")
    streams = {(bits, None) for bits in told if words == ceil(n * bits, _WORD)}
    gapped = {(bits, _WORD // bits) for bits in told if _WORD % bits and words == ceil(n, _WORD // bits)}
    found = streams | gapped
    packed.require(len(found) == 1, f"{words} words hold {n} integers in {len(found)} of the ways that are declared")
    return next(iter(found))


def _gapped(words: torch.Tensor, bits: int, per_word: int) -> torch.Tensor:
    """Return the fields of words that hold `per_word` of them, the lowest first, and then nothing."""
    shifts = torch.arange(per_word, dtype=torch.int32) * bits
    return torch.bitwise_and(words.unsqueeze(-1) >> shifts, 2**bits - 1).to(torch.uint8).flatten(-2)


def _small_floats(packed: Packed) -> Weight:
    """Read FP4 and FP6: NVFP4 divides by one more scale, of the whole tensor; the MX formats scale by exponents."""
    held, scales = packed.info("weight_packed", "uint8").shape, packed.info("weight_scale").shape
    per_scale = held[-1] // scales[-1] if len(held) == len(scales) == 2 and scales[1] else 0
    name, bits, step = _MICROSCALED.get(per_scale, ("", 8, 1))
    fits = bool(name) and scales == (held[0], held[1] // per_scale) and held[1] % per_scale == 0
    packed.require(fits, f"its scales are {list(scales)} for bytes {list(held)}")
    if name == "nvfp4":
        packed.info("weight_scale", "float8_e4m3fn", *FLOATS)
        packed.require(packed.info("weight_global_scale", *FLOATS).parameters == 1, "it has several global scales")
    else:
        packed.info("weight_scale", "uint8", "float8_e8m0fnu")
    n = held[1] * 8 // bits

    def value(parts: Parts) -> torch.Tensor:
        codes, scale = fields(parts("weight_packed"), bits, n), factors(parts("weight_scale"))
        if name == "nvfp4":
            scale = scale / parts("weight_global_scale").float().reshape(())
        W = fp4(codes) if bits == 4 else fp6(codes)
        return W.reshape(*scale.shape, step).mul_(scale.unsqueeze(-1)).flatten(1)

    return Weight((held[0], n), name, value)


def _grid(packed: Packed, shape: tuple[int, ...], *dtypes: str) -> _Grid:
    """Return how one number a group, row, block or tensor is spread over the weight."""
    if len(shape) != 2:
        raise packed.unread(f"as a tensor of {list(shape)}")
    scales = packed.info("weight_scale", *dtypes)
    grid = (1, 1) if scales.parameters == 1 else scales.shape if len(scales.shape) == 2 else (*scales.shape, 1)
    fits = {block for block in _blocks(packed, shape, grid) if grid_shape(shape, block) == grid}
    packed.require(len(fits) == 1, f"its weight_scale is {list(scales.shape)} for {list(shape)}: {len(fits)} ways fit")
    block = next(iter(fits))
    ordered = "weight_g_idx" in packed
    if ordered:
        packed.require(packed.info("weight_g_idx", "int32", "int64").shape == shape[1:], "its weight_g_idx is no order")

    def spread_out(values: torch.Tensor, parts: Parts) -> torch.Tensor:
        values = values.reshape(grid)
        order = parts("weight_g_idx").long() if ordered else None
        if order is None or bool((order == -1).all()):  # -1: an order that was never set
            return spread(values, block, shape)
        packed.require(int(order.min()) >= 0 and int(order.max()) < grid[1], "its weight_g_idx names no group")
        return values[:, order]

    return spread_out


def _blocks(packed: Packed, shape: tuple[int, ...], grid: tuple[int, ...]) -> set[Block]:
    """Return what a scale may cover: what its shape says by itself, else what the configuration declares."""
    m, n = shape
    if grid == (1, 1):
        return {(m, n)}
    if grid == (m, 1):
        return {(1, n)}
    found = {(1, step) for given in _arguments(packed) if (step := whole(given.get("group_size")))}
    for given in _arguments(packed):
        block = given.get("block_structure")
        if isinstance(block, list) and len(block) == 2 and all(whole(extent) for extent in block):
            found.add((block[0], block[1]))
    return found


def _arguments(packed: Packed) -> list[Mapping[str, Any]]:
    """Return what each group of the configuration says of its weights."""
    groups = packed.declared.get("config_groups")
    every = groups.values() if isinstance(groups, Mapping) else ()
    given = [group.get("weights") for group in every if isinstance(group, Mapping)]
    return [weights for weights in given if isinstance(weights, Mapping)]


def _require_symmetric(packed: Packed) -> None:
    """Refuse a weight without zero points where every group is declared to have them."""
    given = _arguments(packed)
    asymmetric = bool(given) and all(weights.get("symmetric") is False for weights in given)
    packed.require(not asymmetric, "its weight_zero_point is missing")
