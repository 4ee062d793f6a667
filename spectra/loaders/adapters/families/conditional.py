"""Methods of PEFT whose change of a weight depends on the input: there is no one update to analyse."""

from collections.abc import Callable, Mapping

from spectra.loaders.adapters.config import AdapterConfig
from spectra.text import listing


def _of_lily(config: AdapterConfig) -> str:
    return (
        "the adapter's method is Lily (peft_type LILY): a router mixes its factors B anew for every input, so that it "
        "has no weight update to analyse."
    )


def _of_xlora(config: AdapterConfig) -> str:
    adapters = config.raw.get("adapters")
    named = listing(f"{name} ({path})" for name, path in adapters.items()) if isinstance(adapters, Mapping) else ""
    return (
        "the adapter's method is X-LoRA (peft_type XLORA): a classifier mixes LoRA adapters anew for every token, so "
        "that it has no weight update to analyse. Diagnose the folder of each of its LoRA adapters on its own"
        + (f": {named}." if named else ".")
    )


def _of_shadow(config: AdapterConfig) -> str:
    return (
        "the adapter's method is ShadowPEFT (peft_type SHADOW): a small model runs beside the base and changes what "
        "passes between its blocks, so that it has no weight update to analyse."
    )


CONDITIONAL: Mapping[str, Callable[[AdapterConfig], str]] = {
    "LILY": _of_lily,
    "SHADOW": _of_shadow,
    "XLORA": _of_xlora,
}
