"""GPTQ (arXiv:2210.17323) as AutoGPTQ and gptqmodel write it: 2, 3, 4 and 8 bits, zeros of both versions, any order."""

import torch

from spectra.loaders.header import FLOATS
from spectra.loaders.quantization.bits import fields
from spectra.loaders.quantization.packing import Packed, Parts, Weight, ceil, whole

_WORD = 32
_BITS = (2, 3, 4, 8)


def read(packed: Packed) -> Weight:
    """Read `W[o, i] = s[g, o] (q[i, o] - z[g, o])`, g the group of input i: `g_idx[i]`, else `i // group_size`.

    qweight `[in bits / 32, out]` packs the inputs, qzeros `[groups, out bits / 32]` the outputs, both as streams of
    fields, lowest bits first, that pass over the borders of words.
    """
    minus_one = packed.declared.get("checkpoint_format") != "gptq_v2"  # the first version stores every zero minus 1
    words, zeros, scales = (
        packed.info(role, *kinds).shape
        for role, kinds in (("qweight", ("int32",)), ("qzeros", ("int32",)), ("scales", FLOATS))
    )
    packed.require(
        all(len(shape) == 2 and 0 not in shape for shape in (words, zeros, scales)), "one of its tensors is no matrix"
    )
    groups, m = scales
    bits = _bits(packed, zeros[1], m)
    n = words[0] * _WORD // bits
    packed.require(words == (n * bits // _WORD, m) and n * bits % _WORD == 0, f"its qweight is {list(words)}")
    packed.require(zeros[0] == groups, f"its qzeros are of {zeros[0]} groups and its scales of {groups}")
    step = _group_size(packed, n, groups)

    def value(parts: Parts) -> torch.Tensor:
        g_idx = _groups(packed, parts("g_idx"), groups) if "g_idx" in packed else torch.arange(n) // step
        z = _zeros(parts("qzeros"), bits, m, minus_one=minus_one, by_words=_by_words(packed, bits))
        W = fields(parts("qweight").T, bits, n).float()
        for values, change in ((z, W.sub_), (parts("scales"), W.mul_)):
            change(values.float().T.contiguous().index_select(1, g_idx))
        return W

    return Weight((m, n), f"int{bits}", value, note=_doubt(packed, bits, minus_one=minus_one))


def _bits(packed: Packed, zero_words: int, m: int) -> int:
    """Read the bits off the shapes, which hold where single layers have bits of their own."""
    bits, rest = divmod(zero_words * _WORD, m)
    packed.require(rest == 0 and bits in _BITS, f"its qzeros are {zero_words} words for {m} outputs")
    told = packed.declared.get("bits")
    packed.require(
        told in (bits, None) or bool(packed.declared.get("dynamic")), f"it has {bits} bits and the configuration {told}"
    )
    return bits


def _group_size(packed: Packed, n: int, groups: int) -> int:
    """Return how many inputs a group has, -1 in the configuration being all of them."""
    told = packed.declared.get("group_size")
    step = n if told == -1 or groups == 1 else whole(told) or ceil(n, groups)
    if "g_idx" in packed:
        found = packed.info("g_idx", "int32", "int64").shape
        packed.require(found == (n,), f"its g_idx is {list(found)} for {n} inputs")
    elif ceil(n, step) != groups or (told is None and n % groups):
        raise packed.fault(f"its scales are of {groups} groups and {n} inputs make {ceil(n, step)} of {step}")
    return step


def _groups(packed: Packed, g_idx: torch.Tensor, groups: int) -> torch.Tensor:
    found = g_idx.long()
    fits = int(found.min()) >= 0 and int(found.max()) < groups
    used = torch.bincount(found, minlength=groups) if fits else torch.zeros(1)
    packed.require(bool(used.all()), f"its g_idx does not use its {groups} groups")
    return found


def _zeros(words: torch.Tensor, bits: int, m: int, *, minus_one: bool, by_words: bool) -> torch.Tensor:
    if minus_one and by_words:
        ones = sum(1 << shift for shift in range(0, _WORD, bits))
        summed = (words.long() + ones) & (2**_WORD - 1)
        return fields(torch.where(summed >= 2**31, summed - 2**_WORD, summed).int(), bits, m)
    zeros = fields(words, bits, m)
    return (zeros + 1) & (2**bits - 1) if minus_one else zeros


def _writer(packed: Packed) -> str:
    meta = packed.declared.get("meta")
    quantizer = meta.get("quantizer") if isinstance(meta, dict) else None
    names = quantizer if isinstance(quantizer, list) else [quantizer]
    return next((name for name in names if isinstance(name, str)), "")


def _by_words(packed: Packed, bits: int) -> bool:
    """Whether 1 was taken from whole words: so gptqmodel does, where AutoGPTQ takes it from every field.

    The two differ beside a zero of 0, from which whole words borrow.
    """
    return _WORD % bits == 0 and _writer(packed).startswith("gptqmodel")


def _doubt(packed: Packed, bits: int, *, minus_one: bool) -> str:
    name, _, version = _writer(packed).partition(":")
    major = version.partition(".")[0]
    old = name == "gptqmodel" and major.isdecimal() and len(major) < 4 and int(major) <= 5
    if bits != 3 or not minus_one or not old:
        return ""
    return "3-bit zeros are read as stored minus 1, field by field; gptqmodel up to 5.6 wrote some of them otherwise"
