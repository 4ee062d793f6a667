"""Starts of LoRA that take a part of the base away: what they are called and what is known of them. Torch-free.

Such a start puts `s B0 A0` into the factors and takes it out of the base, so that against the base as it was
`dW = s B A - s B0 A0`. PiSSA (arXiv:2404.02948) and OLoRA (arXiv:2406.01775) are computed from the base, each time PEFT
loads such a file. CorDA (arXiv:2406.05223), LoRA-GA (arXiv:2407.05000), LoftQ (arXiv:2310.08659) and a PiSSA by random
SVD are not: the adapter as it was before training alone has their start. KaSA (arXiv:2412.06071) drops a part of the
base that no factor has.
"""

from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.options import given_as
from spectra.text import show

RECOMPUTED = ("pissa", "olora")
_PLAIN = ("true", "gaussian", "eva", "orthogonal", "mica")
_NAMES = {"pissa": "PiSSA", "olora": "OLoRA", "corda": "CorDA", "lora_ga": "LoRA-GA", "loftq": "LoftQ"}
_CONVERT = "Saved with PEFT's path_initial_model_for_weight_conversion, such an adapter is plain LoRA."
_REMEDY = (
    f"Give the adapter as it was before training, {given_as('initial')}, or read s B A alone, {given_as('as_stored')}, "
    "which is then said on every output."
)


def start_of(config: AdapterConfig) -> str:
    """Return `init_lora_weights` in lower case; "true" for every start that is PEFT's own."""
    return str(config.raw.get("init_lora_weights") or True).lower()


def drops(config: AdapterConfig) -> bool:
    """Return whether the adapter is KaSA, which drops a part of the base."""
    return bool(config.raw.get("kasa_config"))


def name_of(config: AdapterConfig) -> str:
    """Return what people call the way in which the base was changed, "" where it was not."""
    start = start_of(config)
    known = next((name for begin, name in _NAMES.items() if start.startswith(begin)), "")
    return known or ("KaSA" if drops(config) else "")


def base_changing(config: AdapterConfig) -> str:
    """Return what the start is called where it changed the base, or, being none that is known, may have; else ""."""
    start = start_of(config)
    return name_of(config) or ("" if start in _PLAIN else start)


def refusal(config: AdapterConfig) -> str | None:
    """Say why the update cannot be had from base and adapter and what to do; None where it can, or the caller has."""
    start, name = start_of(config), name_of(config)
    if drops(config) and (name != "KaSA" or config.initial):
        return "KaSA beside another change of the base (init_lora_weights or --initial) is not read."
    if start in (*_PLAIN, *RECOMPUTED) or config.as_stored or config.initial:
        return None
    given = f"init_lora_weights='{show(config.raw.get('init_lora_weights'))}'"
    if not name:
        return f"{given} is no start of LoRA that is known here, and it may have changed the base. {_REMEDY}"
    if name == "LoftQ":
        return f"this adapter was started with {given}, beside a quantised base that is its own. {_REMEDY}"
    why = "by a random SVD" if name == "PiSSA" else "by data that no file holds"
    return f"this adapter was started with {given}, which changes the base {why}. {_REMEDY} {_CONVERT}"


def doubts(config: AdapterConfig) -> list[str]:
    """Say of an update what was made of the start."""
    name = name_of(config)
    if config.as_stored:
        return [f"as stored: {name} took a part of the base away first, which is left out"] if name else []
    if config.initial:
        near = ", which LoftQ only brings near the base" if name == "LoftQ" else ""
        return [f"against the weight as training found it{near}: the factors before training are subtracted"]
    if name == "KaSA":
        return ["KaSA: what it drops of the base, its smallest singular components, is part of the update"]
    return [f"{name}: what its start took out of the base is computed from it and subtracted"] if name else []
