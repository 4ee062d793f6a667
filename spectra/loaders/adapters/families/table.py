"""The table of adapter families. A new one is one file and one row."""

from spectra.errors import UnsupportedError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.families.adalora import ADALORA
from spectra.loaders.adapters.families.adamss import ADAMSS
from spectra.loaders.adapters.families.boft import BOFT
from spectra.loaders.adapters.families.c3a import C3A
from spectra.loaders.adapters.families.conditional import CONDITIONAL
from spectra.loaders.adapters.families.deft import DEFT
from spectra.loaders.adapters.families.delora import DELORA
from spectra.loaders.adapters.families.finegates import FINEGATES
from spectra.loaders.adapters.families.fourierft import FOURIERFT
from spectra.loaders.adapters.families.frod import FROD
from spectra.loaders.adapters.families.glora import GLORA
from spectra.loaders.adapters.families.gralora import GRALORA
from spectra.loaders.adapters.families.hira import HIRA
from spectra.loaders.adapters.families.hra import HRA
from spectra.loaders.adapters.families.ia3 import IA3
from spectra.loaders.adapters.families.loha import LOHA
from spectra.loaders.adapters.families.lokr import LOKR
from spectra.loaders.adapters.families.lora import LORA
from spectra.loaders.adapters.families.lors import LORS
from spectra.loaders.adapters.families.miss import BONE, MISS
from spectra.loaders.adapters.families.oft import OFT
from spectra.loaders.adapters.families.osf import OSF
from spectra.loaders.adapters.families.peanut import PEANUT
from spectra.loaders.adapters.families.peft_itself import INSTALL, installed, through_peft
from spectra.loaders.adapters.families.poly import POLY
from spectra.loaders.adapters.families.psoft import PSOFT
from spectra.loaders.adapters.families.randlora import RANDLORA
from spectra.loaders.adapters.families.road import ROAD
from spectra.loaders.adapters.families.shira import SHIRA
from spectra.loaders.adapters.families.supertuning import SUPERTUNING
from spectra.loaders.adapters.families.tinylora import TINYLORA
from spectra.loaders.adapters.families.tokens import TOKENS
from spectra.loaders.adapters.families.unilora import UNILORA
from spectra.loaders.adapters.families.unread import reason_against
from spectra.loaders.adapters.families.vblora import VBLORA
from spectra.loaders.adapters.families.vectors import BEFT, LN_TUNING
from spectra.loaders.adapters.families.vera import PVERA, VERA
from spectra.loaders.adapters.families.waveft import WAVEFT
from spectra.loaders.adapters.family import Family
from spectra.loaders.methods import Fate, of_peft
from spectra.text import listing, show

FAMILIES: dict[str, Family] = {
    family.method: family
    for family in (
        LORA,
        ADALORA,
        ADAMSS,
        BEFT,
        BOFT,
        BONE,
        C3A,
        DEFT,
        DELORA,
        FINEGATES,
        FOURIERFT,
        FROD,
        GLORA,
        GRALORA,
        HIRA,
        HRA,
        IA3,
        LN_TUNING,
        LOHA,
        LOKR,
        LORS,
        MISS,
        OFT,
        OSF,
        PEANUT,
        POLY,
        PSOFT,
        PVERA,
        RANDLORA,
        ROAD,
        SHIRA,
        SUPERTUNING,
        TINYLORA,
        TOKENS,
        UNILORA,
        VBLORA,
        VERA,
        WAVEFT,
    )
}


def family_of(config: AdapterConfig) -> Family:
    """Return the family that reads this configuration, or refuse the method by name."""
    family = FAMILIES.get(config.method)
    if family is None:
        if config.method in CONDITIONAL:
            raise UnsupportedError(CONDITIONAL[config.method](config))
        known = of_peft(config.method)
        name = f"{known.name.removesuffix(' (PEFT)')} (peft_type {config.method})" if known else config.method
        if known and known.fate is Fate.NONE:
            raise UnsupportedError(
                f"the adapter's method is {show(name)}: it has no weight update to analyse; spectra.insertions "
                "measures prompts, prefixes and bottlenecks."
            )
        return _through_peft(config, name)
    reason = reason_against(config.method, config.raw)
    if reason is not None:
        raise UnsupportedError(reason)
    family.check(config)
    return family


def _through_peft(config: AdapterConfig, name: str) -> Family:
    family = through_peft(config)
    if family is not None:
        return family
    remedy = "that the installed PEFT does not know either" if installed() else f"try with PEFT itself: {INSTALL}"
    raise UnsupportedError(
        f"the adapter's method is {show(name)}, which is none of those read here ({listing(FAMILIES)}); {remedy}. "
        "Or merge it with its own library and diagnose the merged model as a full fine-tune."
    )
