"""The table of adapter families. A new one is one file and one row."""

from spectra.errors import UnsupportedError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family
from spectra.loaders.adapters.lora import LORA
from spectra.text import listing, show

FAMILIES: dict[str, Family] = {family.method: family for family in (LORA,)}


def family_of(config: AdapterConfig) -> Family:
    """Return the family that reads this configuration, or refuse the method by name."""
    family = FAMILIES.get(config.method)
    if family is None:
        raise UnsupportedError(
            f"the adapter's method is {show(config.method)}; this version reads {listing(FAMILIES)} "
            "(with rsLoRA and DoRA) and full fine-tunes. Merge it with its own library and "
            "diagnose the merged model as a full fine-tune."
        )
    family.check(config)
    return family
