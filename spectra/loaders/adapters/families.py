"""The table of adapter families. A new one is one file and one row."""

from spectra.errors import UnsupportedError
from spectra.loaders.adapters.adalora import ADALORA
from spectra.loaders.adapters.adamss import ADAMSS
from spectra.loaders.adapters.boft import BOFT
from spectra.loaders.adapters.c3a import C3A
from spectra.loaders.adapters.conditional import CONDITIONAL
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.deft import DEFT
from spectra.loaders.adapters.delora import DELORA
from spectra.loaders.adapters.family import Family
from spectra.loaders.adapters.finegates import FINEGATES
from spectra.loaders.adapters.fourierft import FOURIERFT
from spectra.loaders.adapters.frod import FROD
from spectra.loaders.adapters.glora import GLORA
from spectra.loaders.adapters.gralora import GRALORA
from spectra.loaders.adapters.hira import HIRA
from spectra.loaders.adapters.hra import HRA
from spectra.loaders.adapters.ia3 import IA3
from spectra.loaders.adapters.loha import LOHA
from spectra.loaders.adapters.lokr import LOKR
from spectra.loaders.adapters.lora import LORA
from spectra.loaders.adapters.lors import LORS
from spectra.loaders.adapters.miss import BONE, MISS
from spectra.loaders.adapters.oft import OFT
from spectra.loaders.adapters.osf import OSF
from spectra.loaders.adapters.peanut import PEANUT
from spectra.loaders.adapters.peft_itself import INSTALL, installed, through_peft
from spectra.loaders.adapters.poly import POLY
from spectra.loaders.adapters.psoft import PSOFT
from spectra.loaders.adapters.randlora import RANDLORA
from spectra.loaders.adapters.road import ROAD
from spectra.loaders.adapters.shira import SHIRA
from spectra.loaders.adapters.supertuning import SUPERTUNING
from spectra.loaders.adapters.tinylora import TINYLORA
from spectra.loaders.adapters.tokens import TOKENS
from spectra.loaders.adapters.unilora import UNILORA
from spectra.loaders.adapters.unread import reason_against
from spectra.loaders.adapters.vblora import VBLORA
from spectra.loaders.adapters.vectors import BEFT, LN_TUNING
from spectra.loaders.adapters.vera import PVERA, VERA
from spectra.loaders.adapters.waveft import WAVEFT
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
            raise UnsupportedError(f"the adapter's method is {show(name)}: it has no weight update to analyse.")
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
