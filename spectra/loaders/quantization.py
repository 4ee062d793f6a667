"""Recognise weights that are stored packed, so that packed bytes are never taken for weights."""

from collections.abc import Mapping
from typing import Any

from spectra.loaders.header import FLOATS, TensorInfo
from spectra.text import show

SUFFIXES = {
    ".absmax": "bitsandbytes 4-bit",
    ".quant_state.bitsandbytes__nf4": "bitsandbytes NF4",
    ".quant_state.bitsandbytes__fp4": "bitsandbytes FP4",
    ".SCB": "bitsandbytes int8",
    ".qweight": "GPTQ or AWQ",
    ".weight_packed": "compressed-tensors",
    ".weight_scale_inv": "block fp8",
    ".weight_scale": "compressed-tensors or fp8",
    "._weight_qdata": "torchao",
    ".W_q": "HQQ",
    "._data": "quanto",
    "_blocks": "MXFP4",
    ".qzeros": "GPTQ or AWQ",
}
# Ordinary parameters have such names too; what is packed under them is no float.
_PACKED_ITSELF = (".W_q", "_blocks", ".weight_packed", "._data", "._weight_qdata")


def scheme(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> str | None:
    """Name the scheme a checkpoint is packed with, judged by its tensor names; None when it is plain."""
    endings = tuple(SUFFIXES)
    for key, info in tensors.items():
        if not key.endswith(endings):
            continue
        for suffix, name in SUFFIXES.items():
            if key.endswith(suffix) and not (suffix in _PACKED_ITSELF and info.dtype in FLOATS):
                declared = config.get("quantization_config")
                method = declared.get("quant_method") if isinstance(declared, dict) else None
                return f"{show(method, 40)} ({name})" if isinstance(method, str) else name
    return None
