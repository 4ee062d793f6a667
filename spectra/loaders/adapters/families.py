"""The table of adapter families. A new one is one file and one row."""

from spectra.errors import UnsupportedError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family
from spectra.loaders.adapters.lora import LORA
from spectra.loaders.methods import Fate, of_peft
from spectra.text import listing, show

FAMILIES: dict[str, Family] = {family.method: family for family in (LORA,)}


def family_of(config: AdapterConfig) -> Family:
    """Return the family that reads this configuration, or refuse the method by name."""
    family = FAMILIES.get(config.method)
    if family is None:
        known = of_peft(config.method)
        name = f"{known.name.removesuffix(' (PEFT)')} (peft_type {config.method})" if known else config.method
        if known and known.fate is Fate.NONE:
            raise UnsupportedError(f"the adapter's method is {show(name)}: it has no weight update to analyse.")
        raise UnsupportedError(
            f"the adapter's method is {show(name)}; this version reads {listing(FAMILIES)} "
            "(with rsLoRA and DoRA) and full fine-tunes. Merge it with its own library and "
            "diagnose the merged model as a full fine-tune."
        )
    family.check(config)
    return family
