"""How packed weights show: each scheme by the names, dtypes and shapes of its tensors. Torch-free.

A new scheme is one row here, one file that reads it and one row of `schemes.py`.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from spectra.errors import FormatError
from spectra.loaders.header import FLOATS, TensorInfo
from spectra.text import listing, show

EIGHT_BIT_FLOATS = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
# Methods whose `weight_scale` multiplies float8 weights (AutoFP8 calls itself fp8).
_SCALED_BY = ("fp8", "fbgemm_fp8", "modelopt")


@dataclass(frozen=True, slots=True)
class Packing:
    """One packed weight: what packs it, its name once unpacked, and its tensors by their role."""

    scheme: str
    key: str
    parts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Look:
    """What one sign is judged by: the tensors that share a stem, and the method that the configuration declares."""

    stem: str
    tensors: Mapping[str, TensorInfo]
    method: str | None

    def dtype(self, suffix: str) -> str | None:
        info = self.tensors.get(self.stem + suffix)
        return info.dtype if info else None

    def shape(self, suffix: str) -> tuple[int, ...]:
        info = self.tensors.get(self.stem + suffix)
        return info.shape if info else ()


@dataclass(frozen=True, slots=True)
class Sign:
    """How one scheme shows.

    marker : how the name of the one tensor ends that only this scheme has; what is before it is the stem. parts :
    every role of its tensors and what follows the stem in its name. names : from the stem to the name of the weight.
    shows : whether what was found is the scheme indeed, None where the marker says it.
    """

    scheme: str
    marker: str
    parts: Mapping[str, str]
    names: Callable[[str], str] = "{}.weight".format
    shows: Callable[[Look], bool] | None = None

    def fits(self, name: str, tensors: Mapping[str, TensorInfo], method: str | None) -> bool:
        if not name.endswith(self.marker):
            return False
        return self.shows is None or self.shows(Look(name.removesuffix(self.marker), tensors, method))


def _itself(stem: str) -> str:
    return stem


def _flattened(stem: str) -> str:
    """Return the name of a tensor that torchao flattened: `module._weight` stands for `module.weight`."""
    module, _, leaf = stem.rpartition("._")
    return f"{module}.{leaf}" if module else leaf


def _after(separator: str, *roles: str, **others: str) -> Mapping[str, str]:
    return {role: separator + role for role in roles} | others


_BITSANDBYTES = _after(".", "absmax", "quant_map", "nested_absmax", "nested_quant_map", weight="")
_INTEGERS = _after(".", "qweight", "qzeros", "scales", "g_idx")
_BESIDE = ("input_scale", "input_zero_point", "input_global_scale", "output_scale")
_COMPRESSED = _after(
    ".", "weight_packed", "weight", "weight_scale", "weight_zero_point", "weight_global_scale", "weight_shape",
    "weight_g_idx", *_BESIDE,
)  # fmt: skip
_QUANTO = {"scale": "._scale", "shift": "._shift"}


def _holds_integers(method: str) -> Callable[[Look], bool]:
    """Return the test of GPTQ's and AWQ's common names: by the method declared, else by their shapes.

    GPTQ packs the inputs, so that its codes are as wide as the scales; AWQ packs the outputs, as both do the zeros.
    """
    widest = ".scales" if method == "gptq" else ".qzeros"

    def shows(look: Look) -> bool:
        shape = look.shape(".qweight")
        if look.dtype(".qweight") != "int32" or look.method not in (method, None):
            return False
        return look.method == method or shape[-1:] == look.shape(widest)[-1:]

    return shows


def _is_compressed(look: Look) -> bool:
    return look.method == "compressed-tensors" and look.dtype(".weight") in (*EIGHT_BIT_FLOATS, "int8")


def _is_packed_hqq(look: Look) -> bool:
    return look.dtype(".W_q") not in FLOATS or look.dtype(".packing") is not None


SIGNS = (
    Sign("bitsandbytes NF4", ".quant_state.bitsandbytes__nf4",
         {**_BITSANDBYTES, "state": ".quant_state.bitsandbytes__nf4"}, _itself),
    Sign("bitsandbytes FP4", ".quant_state.bitsandbytes__fp4",
         {**_BITSANDBYTES, "state": ".quant_state.bitsandbytes__fp4"}, _itself),
    Sign("bitsandbytes int8", ".SCB", _after(".", "weight", "SCB", "weight_format"),
         shows=lambda look: look.dtype(".weight") == "int8"),
    Sign("GPTQ", ".qweight", _INTEGERS, shows=_holds_integers("gptq")),
    Sign("AWQ", ".qweight", _INTEGERS, shows=_holds_integers("awq")),
    Sign("block fp8", "_scale_inv", {"weight": "", "scale": "_scale_inv", "activation": "_activation_scale"}, _itself,
         lambda look: look.dtype("") in (*EIGHT_BIT_FLOATS, "int8")),
    Sign("compressed-tensors", ".weight_packed", _COMPRESSED,
         shows=lambda look: look.dtype(".weight_packed") in ("int32", "uint8")),
    Sign("compressed-tensors", ".weight_scale", _COMPRESSED, shows=_is_compressed),
    Sign("BitNet", ".weight_scale", _after(".", "weight", "weight_scale"),
         shows=lambda look: look.method == "bitnet" and look.dtype(".weight") == "uint8"),
    Sign("scaled fp8", ".weight_scale", _after(".", "weight", "weight_scale", *_BESIDE),
         shows=lambda look: look.method in _SCALED_BY and look.dtype(".weight") in EIGHT_BIT_FLOATS),
    Sign("MXFP4", "_blocks", {"blocks": "_blocks", "scales": "_scales"}, _itself,
         lambda look: look.dtype("_blocks") == "uint8" and look.dtype("_scales") == "uint8"),
    Sign("torchao", "_qdata", _after("_", "qdata", "scale", "zero_point", "act_pre_scale", "act_quant_scale",
         "act_quant_zero_point"), _flattened, lambda look: "._" in look.stem),
    Sign("HQQ", ".W_q", _after(".", "W_q", "scale", "zero", "shape", "nbits", "axis", "group_size", "packing",
         "view_as_float", "unpack_view_dtype", "quant_scale", "quant_zero", "channel_wise", "optimize", "round_zero",
         "compute_dtype", "offload_meta", "encoded_state_dict", "stores_quant_config"), shows=_is_packed_hqq),
    Sign("quanto", "._data._data", {**_QUANTO, "packed": "._data._data"}, _itself),
    Sign("quanto", "._data", {**_QUANTO, "data": "._data"}, _itself,
         lambda look: look.dtype("._data") not in (*FLOATS, None)),
    Sign("MLX", ".scales", _after(".", "weight", "scales", "biases", "global_scale"),
         shows=lambda look: look.dtype(".weight") == "uint32"),
)  # fmt: skip

# What is left over and ends so is packed by something that is not read, or not whole.
_SUSPECT = {
    ".absmax": "bitsandbytes 4-bit",
    ".SCB": "bitsandbytes int8",
    ".qweight": "GPTQ, AWQ or their like",
    ".qzeros": "GPTQ, AWQ or their like",
    ".weight_packed": "compressed-tensors",
    ".bitmask": "sparse compressed-tensors",
    ".weight_scale_inv": "block fp8",
    ".weight_scale": "scaled integers or fp8",
    "._weight_qdata": "torchao",
    ".W_q": "HQQ",
    "._data": "quanto",
    "_blocks": "MXFP4",
}
# Ordinary parameters have such names too; what is packed under them is no float.
_PACKED_ITSELF = (".W_q", "_blocks", ".weight_packed", "._data", "._weight_qdata")
_NO_WEIGHTS = (*FLOATS, "int64", "bool", "complex64", "complex128")
_HOLDERS = ("quantization_config", "compression_config", "quantization")


def declaration(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a model's configuration declares of its quantisation, an empty mapping when nothing."""
    inner = config.get("text_config")
    for holder in (config, inner if isinstance(inner, Mapping) else {}):
        for name in _HOLDERS:
            if isinstance(holder.get(name), Mapping) and holder[name]:
                return dict(holder[name])
    return {}


def method_of(config: Mapping[str, Any]) -> str | None:
    """Return the method that a model's configuration declares, None when it names none."""
    method = declaration(config).get("quant_method")
    return method if isinstance(method, str) else None


def packings(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> Iterator[Packing]:
    """Yield every packed weight of a checkpoint, in the order of the file.

    Raises FormatError where one weight is stored twice, packed and plain or by two schemes.
    """
    markers, method = tuple({sign.marker for sign in SIGNS}), method_of(config)
    seen: dict[str, str] = {}
    for name in tensors:
        sign = _sign_of(name, tensors, method) if name.endswith(markers) else None
        if sign is None:
            continue
        stem = name.removesuffix(sign.marker)
        parts = {role: stem + suffix for role, suffix in sign.parts.items() if stem + suffix in tensors}
        key = sign.names(stem)
        if key in seen or (key in tensors and key not in parts.values()):
            raise FormatError(f"'{show(key)}' is stored twice, packed by {sign.scheme} and otherwise. Save it again.")
        seen[key] = name
        yield Packing(sign.scheme, key, parts)


def _sign_of(name: str, tensors: Mapping[str, TensorInfo], method: str | None) -> Sign | None:
    return next((sign for sign in SIGNS if sign.fits(name, tensors, method)), None)


def unread(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> str | None:
    """Name what packs those weights that no scheme here reads, with a tensor as example; None when there are none."""
    claimed = {name for packing in packings(tensors, config) for name in packing.parts.values()}
    rest = {name: info for name, info in tensors.items() if name not in claimed}
    for name, info in rest.items():
        for suffix, scheme in _SUSPECT.items():
            if name.endswith(suffix) and not (suffix in _PACKED_ITSELF and info.dtype in FLOATS):
                return _called(scheme, config, name)
    if method_of(config) is None:
        return None
    strange = (name for name, info in rest.items() if len(info.shape) > 1 and info.read_as not in _NO_WEIGHTS)
    example = next((name for name in strange if not name.endswith("bias")), None)
    return None if example is None else _called("", config, example)


def _called(scheme: str, config: Mapping[str, Any], example: str) -> str:
    method = method_of(config)
    if method is None:
        return f"{scheme} (tensor '{show(example)}')"
    beside = f"{scheme}, " if scheme else ""
    return f"{show(method, 40)} ({beside}tensor '{show(example)}')"


def scheme(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> str | None:
    """Name what packs the weights of a checkpoint, read here or not; None when it is plain."""
    read = dict.fromkeys(packing.scheme for packing in packings(tensors, config))
    return listing(read) if read else unread(tensors, config)
