"""Whether adapters that speak of their scaling in words of their own say enough to be read. Torch-free."""

from collections.abc import Callable, Mapping

from spectra.errors import InputError
from spectra.loaders.adapters.config import LORALIB_SETTINGS, LORMA_SETTINGS
from spectra.loaders.adapters.dialects.mlx_scale import scale_of
from spectra.loaders.files import exists
from spectra.loaders.inspection.declared import Evidence
from spectra.loaders.methods import FULL
from spectra.loaders.options import given_as

Speech = Callable[[Evidence], str | None]


def own_words(evidence: Evidence) -> Speech | None:
    """Return the test of the dialect, whose answer is why the file is not read; None for PEFT's and for models."""
    if evidence.method is FULL and (evidence.declared.adapter or {}).get("fine_tune_type") == "full":
        return _complete  # MLX, which stores whole weights then
    return _DIALECTS.get(evidence.method.kin)


def _complete(_: Evidence) -> str | None:
    return None


def _mlx(evidence: Evidence) -> str | None:
    try:
        scale = scale_of(evidence.declared.adapter or {})
    except InputError as fault:
        return str(fault).rstrip(".")
    return None if scale is not None else f"{evidence.method.name} without a scale beside it: give {given_as('alpha')}"


def _hub(evidence: Evidence) -> str | None:
    inner = (evidence.declared.adapter or {}).get("config")
    if not isinstance(inner, Mapping):
        return f"{evidence.method.name} without its adapter_config.json: give the adapter's whole folder"
    return None if inner.get("architecture") == "lora" and not inner.get("use_gating") else evidence.declared.foreign


def _torchtune(evidence: Evidence) -> str | None:
    if evidence.declared.peft is not None:
        return None
    return (
        f"{evidence.method.name} says its alpha in an adapter_config.json, which is missing: give {given_as('alpha')}"
    )


def _gguf(evidence: Evidence) -> str | None:
    return None if "adapter.lora.alpha" in evidence.declared.metadata else f"{evidence.method.name} without its alpha"


def _settled_in(name: str) -> Speech:
    """Return the test of a dialect whose settings are looked for in a file of this name."""

    def test(evidence: Evidence) -> str | None:
        files = {info.file for info in evidence.header.tensors.values()}
        if any(file is not None and exists(file.parent / name) for file in files):
            return None
        return f"{evidence.method.name} saves none of its settings, and no {name} beside it says them"

    return test


def _silent(evidence: Evidence) -> str | None:
    named = f", and {given_as('names')}, since the file names no modules" if evidence.method.kin == "vit" else ""
    return f"{evidence.method.name} saves no alpha: give {given_as('alpha')}{named}"


_DIALECTS: Mapping[str, Speech] = {
    **dict.fromkeys(("kohya", "diffusers", "cloneofsimo"), _complete),
    "gguf": _gguf,
    "hub": _hub,
    "loralib": _settled_in(LORALIB_SETTINGS),
    "lorma": _settled_in(LORMA_SETTINGS),
    "mlx": _mlx,
    "nemo": _silent,
    "torchtune": _torchtune,
    "vit": _silent,
}
