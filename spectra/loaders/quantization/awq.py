"""AWQ (arXiv:2306.00978) in the `gemm` layout: 4 bits, packed along the outputs in an order of its own."""

import torch

from spectra.loaders.header import FLOATS
from spectra.loaders.quantization.bits import fields
from spectra.loaders.quantization.packing import Packed, Parts, Weight, whole

_PLACES = [0, 4, 1, 5, 2, 6, 3, 7]  # the nibble that holds output j of a word: they lie as 0 2 4 6 1 3 5 7
_PER_WORD = 8


def read(packed: Packed) -> Weight:
    """Read `W[o, i] = s[i // g, o] (q[i, o] - z[i // g, o])`: qweight is `[in, out / 8]`, scales `[groups, out]`."""
    words, zeros, scales = (
        packed.info(role, *kinds).shape
        for role, kinds in (("qweight", ("int32",)), ("qzeros", ("int32",)), ("scales", FLOATS))
    )
    packed.require(
        all(len(shape) == 2 and 0 not in shape for shape in (words, zeros, scales)), "one of its tensors is no matrix"
    )
    if words[0] == scales[0] != 1:
        raise packed.unread("in the layout gemv")
    n, groups, m = words[0], scales[0], scales[1]
    step = _group_size(packed, n, groups)
    packed.require(words[1] * _PER_WORD == m, f"its qweight is {list(words)} for {m} outputs")
    packed.require(zeros == (groups, words[1]), f"its qzeros are {list(zeros)} for scales {list(scales)}")

    def value(parts: Parts) -> torch.Tensor:
        W = _codes(parts("qweight"), m).float().reshape(groups, step, m)
        z, s = _codes(parts("qzeros"), m).float(), parts("scales").float()
        return W.sub_(z.unsqueeze(1)).mul_(s.unsqueeze(1)).reshape(n, m).T

    return Weight((m, n), "int4", value)


def _group_size(packed: Packed, n: int, groups: int) -> int:
    told = packed.declared.get("group_size", packed.declared.get("q_group_size"))
    step, rest = divmod(n, groups)
    packed.require(rest == 0 and step > 0, f"{n} inputs do not make {groups} groups")
    agrees = whole(told) in (step, None) and (told != -1 or groups == 1)
    packed.require(agrees, f"its groups have {step} inputs and the configuration says {told}")
    return step


def _codes(words: torch.Tensor, m: int) -> torch.Tensor:
    return fields(words, 4, m).reshape(len(words), -1, _PER_WORD)[..., _PLACES].reshape(len(words), m)
