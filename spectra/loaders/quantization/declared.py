"""What a configuration alone says against unpacking: settings of a scheme that are not read. Torch-free."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spectra.loaders import strict_json
from spectra.loaders.files import exists
from spectra.loaders.header import TensorInfo
from spectra.loaders.quantization.signs import declaration, packings, unread
from spectra.text import show

UNQUANTISED = "Give the unquantised checkpoint it was made from."
_BESIDE = {"quantize_config.json": "gptq", "quant_config.json": "awq"}
_CONFIG = "Put the config.json that it was saved with beside it."


def completed(config: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """Return a model's configuration with what AutoGPTQ and AutoAWQ once wrote of theirs in a file of its own."""
    for name, method in _BESIDE.items():
        if "quantization_config" not in config and exists(folder / name):
            return {**config, "quantization_config": {"quant_method": method, **strict_json.read(folder / name)}}
    return config


def refusal(scheme: str, declared: Mapping[str, Any]) -> tuple[str, str] | None:
    """Return what of a scheme is not unpacked as it is declared, and the remedy; None when it is."""
    check = _CHECKS.get(scheme)
    return check(declared) if check is not None else None


def reason_against(tensors: Mapping[str, TensorInfo], config: Mapping[str, Any]) -> str | None:
    """Return why a checkpoint is not unpacked, as far as names and configuration tell; None when it is plain or is."""
    foreign = unread(tensors, config)
    if foreign is not None:
        return f"it is packed by {foreign}: {_inside(UNQUANTISED)}"
    declared = declaration(config)
    for scheme in dict.fromkeys(packing.scheme for packing in packings(tensors, config)):
        found = refusal(scheme, declared)
        if found is not None:
            return f"it is packed by {scheme} {found[0]}: {_inside(found[1])}"
    return None


def _inside(remedy: str) -> str:
    """Return a remedy as the end of a sentence that begins otherwise."""
    return remedy[0].lower() + remedy.removesuffix(".")[1:]


def _gptq(declared: Mapping[str, Any]) -> tuple[str, str] | None:
    if not declared:
        return "without a configuration that says whether its zeros are stored minus 1", _CONFIG
    kind = "marlin" if declared.get("is_marlin_format") else declared.get("checkpoint_format")
    return None if kind in (None, "gptq", "gptq_v2") else (f"in the format {show(kind, 40)}", UNQUANTISED)


def _awq(declared: Mapping[str, Any]) -> tuple[str, str] | None:
    layout, bits = declared.get("version", declared.get("checkpoint_format", "gemm")), declared.get("bits", 4)
    if str(layout).lower() != "gemm":
        return f"in the layout {show(layout, 40)}", UNQUANTISED
    return None if declared.get("w_bit", bits) == 4 else (f"in {show(bits, 40)} bits", UNQUANTISED)


def _compressed(declared: Mapping[str, Any]) -> tuple[str, str] | None:
    sparse = declared.get("sparsity_config")
    kind = sparse.get("format", "dense") if isinstance(sparse, Mapping) else "dense"
    return None if kind == "dense" else (f"in the sparse format {show(kind, 40)}", UNQUANTISED)


def _bitnet(declared: Mapping[str, Any]) -> tuple[str, str] | None:
    kind = declared.get("linear_class", "bitlinear")
    return None if kind in ("bitlinear", "autobitlinear") else (f"for the layers {show(kind, 40)}", UNQUANTISED)


def _mlx(declared: Mapping[str, Any]) -> tuple[str, str] | None:
    return None if declared else ("without a configuration that says its bits", _CONFIG)


_CHECKS: Mapping[str, Callable[[Mapping[str, Any]], tuple[str, str] | None]] = {
    "GPTQ": _gptq,
    "AWQ": _awq,
    "compressed-tensors": _compressed,
    "BitNet": _bitnet,
    "MLX": _mlx,
}
