"""BitNet b1.58 (arXiv:2402.17764): every weight is -1, 0 or 1 times one number."""

import torch

from spectra.loaders.header import FLOATS
from spectra.loaders.quantization.packing import Packed, Parts, Weight

_PER_BYTE = 4


def read(packed: Packed) -> Weight:
    """Read four rows from each packed row: slot j (two bits, lowest first) of row r is row `j out / 4 + r`, plus 1.

    A `bitlinear` divides by its scale, an `autobitlinear` multiplies by it.
    """
    multiplies = packed.declared.get("linear_class") == "autobitlinear"
    rows = packed.info("weight", "uint8").shape
    packed.require(len(rows) == 2, f"its weight is {list(rows)}, no matrix")
    packed.require(packed.info("weight_scale", *FLOATS).parameters == 1, "its weight_scale is not one number")
    shape = (rows[0] * _PER_BYTE, rows[1])

    def value(parts: Parts) -> torch.Tensor:
        codes = torch.cat([(parts("weight") >> 2 * slot) & 3 for slot in range(_PER_BYTE)])
        packed.require(not bool((codes == 3).any()), "it holds a code that is none of -1, 0 and 1")
        scale = parts("weight_scale").float().reshape(())
        return (codes.float() - 1) * (scale if multiplies else 1 / scale)

    return Weight(shape, "ternary", value)
