"""The table of packing schemes: what reads each of the signs. A new scheme is one file, one sign and one row."""

from collections.abc import Callable, Mapping

from spectra.loaders.quantization import (
    awq,
    bitnet,
    bitsandbytes,
    compressed_tensors,
    fp8,
    gptq,
    hqq,
    mlx,
    mxfp4,
    quanto,
    torchao,
)
from spectra.loaders.quantization.packing import Packed, Weight

SCHEMES: Mapping[str, Callable[[Packed], Weight]] = {
    "bitsandbytes NF4": bitsandbytes.four_bit,
    "bitsandbytes FP4": bitsandbytes.four_bit,
    "bitsandbytes int8": bitsandbytes.int8,
    "GPTQ": gptq.read,
    "AWQ": awq.read,
    "block fp8": fp8.blocks,
    "scaled fp8": fp8.scaled,
    "compressed-tensors": compressed_tensors.read,
    "BitNet": bitnet.read,
    "MXFP4": mxfp4.read,
    "torchao": torchao.read,
    "HQQ": hqq.read,
    "quanto": quanto.read,
    "MLX": mlx.read,
}
