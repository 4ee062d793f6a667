"""bitsandbytes: NF4 and FP4 (QLoRA, arXiv:2305.14314) and int8 rows (LLM.int8(), arXiv:2208.07339)."""

import math

import torch

from spectra.loaders import strict_json
from spectra.loaders.header import FLOATS
from spectra.loaders.quantization.bits import fields, looked_up
from spectra.loaders.quantization.packing import Packed, Parts, Weight, ceil, whole
from spectra.text import show

_LEVELS, _NESTED_LEVELS = 16, 256


def four_bit(packed: Packed) -> Weight:
    """Read `W = map[code] absmax`, one absmax a run of `blocksize` entries.

    Of the two codes in a byte the high one comes first. Doubly quantised, the absmax is itself a code:
    `nested_map[code] nested_absmax + offset`. The bytes may be stored as any dtype (`bnb_4bit_quant_storage`): they
    are reinterpreted, never converted.
    """
    state = strict_json.parse(
        bytes(packed.small("state").flatten().tolist()), f"the quant_state of '{show(packed.key)}'"
    )
    kind, step, shape = state.get("quant_type"), whole(state.get("blocksize")), packed.extents(state.get("shape"))
    size = math.prod(shape)
    packed.require(kind in ("nf4", "fp4"), f"its quant_state has the type {kind}")
    packed.require(step is not None, "its quant_state has no blocksize")
    assert step is not None
    held, runs = packed.info("weight").bytes, ceil(size, step)
    packed.require(held == ceil(size, 2), f"its {held} bytes are not the codes of {list(shape)}")
    packed.require(packed.info("quant_map", *FLOATS).shape == (_LEVELS,), f"its quant_map has not {_LEVELS} entries")
    nested = packed.info("absmax").dtype == "uint8"
    offset, nested_step = _nested(packed, state, runs) if nested else (0.0, 1)
    packed.require(packed.info("absmax").parameters == runs, f"its absmax are not the {runs} of runs of {step}")
    if not nested:
        packed.info("absmax", *FLOATS)

    def value(parts: Parts) -> torch.Tensor:
        absmax = parts("absmax").flatten()
        if nested:
            scale = parts("nested_absmax").float().repeat_interleave(nested_step)[:runs]
            absmax = looked_up(absmax, parts("nested_quant_map").float()) * scale + offset
        pairs = fields(parts("weight").flatten().view(torch.uint8), 4, 2 * held).reshape(held, 2)
        W = looked_up(pairs.flip(1).flatten()[:size], parts("quant_map").float())
        return _scale_runs(W, absmax.float(), step).reshape(shape)

    return Weight(shape, str(kind), value)


def _nested(packed: Packed, state: dict[str, object], runs: int) -> tuple[float, int]:
    """Check what the codes of absmax need, and return their offset and how many share a scale."""
    offset, step = state.get("nested_offset"), whole(state.get("nested_blocksize"))
    known = isinstance(offset, int | float) and math.isfinite(offset)
    packed.require(known, "its quant_state has no nested_offset")
    packed.require(step is not None, "its quant_state has no nested_blocksize")
    assert isinstance(offset, int | float)
    assert step is not None
    levels, scales = packed.info("nested_quant_map", *FLOATS), packed.info("nested_absmax", *FLOATS)
    packed.require(levels.shape == (_NESTED_LEVELS,), f"its nested_quant_map has not {_NESTED_LEVELS} entries")
    packed.require(scales.parameters == ceil(runs, step), f"its nested_absmax are not {ceil(runs, step)}")
    return float(offset), min(step, runs)


def _scale_runs(W: torch.Tensor, scale: torch.Tensor, step: int) -> torch.Tensor:
    """Multiply runs of `step` entries in place, the last of which may be shorter."""
    even = len(W) - len(W) % step
    W[:even].view(-1, step).mul_(scale[: even // step, None])
    W[even:].mul_(scale[even // step :])
    return W


def int8(packed: Packed) -> Weight:
    """Read `W = w SCB / 127`: SCB holds the largest magnitude of every row."""
    shape = packed.info("weight", "int8").shape
    packed.require(len(shape) == 2, f"its weight is {list(shape)}, no matrix")
    packed.require(packed.info("SCB", *FLOATS).parameters == shape[0], f"its SCB is not one number for {shape[0]} rows")
    if "weight_format" in packed and packed.small("weight_format").any():
        raise packed.unread("in the tiles of one kind of GPU (weight_format is not 0)")
    return Weight(shape, "int8", lambda parts: parts("weight").float() * (parts("SCB").float().reshape(-1, 1) / 127))
