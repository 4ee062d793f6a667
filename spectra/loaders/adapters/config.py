"""The configuration of an adapter folder, typed and checked. Torch-free."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spectra.errors import FormatError, InputError, UnsupportedError
from spectra.loaders import strict_json
from spectra.loaders.adapters.patterns import matches
from spectra.loaders.files import exists
from spectra.text import show

CONFIG_NAME = "adapter_config.json"
LORALIB_SETTINGS, LORMA_SETTINGS = "train_args.json", "lorma_args.json"  # beside files that say nothing themselves
_LARGEST = 1e30
# Options of LoRA that change what dW is. Reading such a file as plain LoRA would be wrong without a word.
REFUSED_OPTIONS = {
    "arrow_config": "is a router that mixes other adapters token by token (arrow_config), and those are the updates",
}
SCALED = ("LORA", "LOHA", "LOKR", "LORS")  # the methods whose r and alpha, with their patterns, mean what LoRA's do
_OWN_RANKS = ("ADALORA", "OSF")  # their rank_pattern holds other things than ranks
# The numbers that scale an update, of the methods whose configuration may leave them out.
_SCALING: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(SCALED, ("r", "lora_alpha")),
    "ADALORA": ("init_r", "lora_alpha"),
    "GRALORA": ("alpha",),
    "RANDLORA": ("randlora_alpha",),
}
CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What `adapter_config.json` says, in PEFT's words; `raw` keeps the rest.

    as_stored : read the factors alone, whatever their start did to the base; initial : the factors before training
    are given. Both are said by the caller.
    """

    method: str
    r: int
    alpha: float
    rank_pattern: Mapping[str, int] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    base_model: str | None = None
    targets: tuple[str, ...] = ()
    saved_modules: tuple[str, ...] = ()
    task_type: str | None = None
    as_stored: bool = False
    initial: bool = False
    raw: Mapping[str, Any] = field(default_factory=dict)

    def rank_of(self, module: str, stored: int | None = None) -> int:
        """Return the rank that the configuration gives a module, by PEFT's own pattern matching.

        PEFT sorts the patterns when it saves them; where several match, the stored rank tells the one meant.
        """
        values = [self.rank_pattern[key] for key in matching(self.rank_pattern, module)]
        if not values and "r" in self.left_out:
            return stored or self.r
        return stored if stored in values else (values or [self.r])[0]

    def alphas_of(self, module: str) -> tuple[float, ...]:
        """Return every alpha that the configuration has for a module, in the order of its patterns."""
        return tuple(self.alpha_pattern[key] for key in matching(self.alpha_pattern, module)) or (self.alpha,)

    def alpha_of(self, module: str) -> float:
        """Return the alpha of a module: the first that matches, as PEFT takes it."""
        return self.alphas_of(module)[0]

    def scaling_of(self, module: str, stored: int | None = None) -> float:
        """Return alpha / r, or alpha / sqrt(r) with rsLoRA (arXiv:2312.03732)."""
        rank = self.rank_of(module, stored)
        return self.alpha_of(module) / (math.sqrt(rank) if self.use_rslora else rank)

    @property
    def is_scaled(self) -> bool:
        """Whether the method scales its updates by alpha and the rank, as LoRA does."""
        return self.r > 0

    @property
    def left_out(self) -> tuple[str, ...]:
        """The numbers of PEFT's configuration that scale the update and do not stand in it."""
        if "peft_type" not in self.raw:
            return ()
        alias = {"lora_alpha": "alpha"} if self.method in SCALED else {}
        return tuple(
            name
            for name in _SCALING.get(self.method, ())
            if self.raw.get(name) is None and self.raw.get(alias.get(name, name)) is None
        )

    def assumed(self) -> list[str]:
        """Say what was taken for the numbers that the configuration leaves out."""
        known = {"r": "the stored rank", "lora_alpha": f"{self.alpha:g}, PEFT's default,"} if self.is_scaled else {}
        taken = {name: known.get(name, "PEFT's default") for name in self.left_out}
        return [f"{CONFIG_NAME} has no {name}: {value} is taken" for name, value in taken.items()]

    def doubts_of(self, module: str, stored: int | None) -> list[str]:
        """Say what file and configuration leave open about the scaling of a module, and what was taken."""
        declared, alphas = self.rank_of(module, stored), self.alphas_of(module)
        notes = []
        if stored is not None and stored != declared:
            notes.append(f"stored rank {stored}, but the configuration says {declared}; the scaling uses that")
        if len(set(alphas)) > 1:
            notes.append(
                f"several alpha_patterns match and PEFT does not save their order: alpha {alphas[0]:g} is taken"
            )
        undated = "peft_type" in self.raw and "peft_version" not in self.raw
        if self.rank_pattern and self.alpha_pattern and undated and not self._one_key(module):
            notes.append(
                "rank and alpha come from different patterns: older versions of PEFT looked both up by the first "
                f"that matches, which may give another scale than {self.scaling_of(module, stored):g}"
            )
        return notes

    def _one_key(self, module: str) -> bool:
        """Whether a module's rank and alpha are found under the same pattern, or neither is."""
        return matching(self.rank_pattern, module)[:1] == matching(self.alpha_pattern, module)[:1]

    def rank_in(self, name: str, otherwise: int) -> int:
        """Return a whole number above zero that the configuration has under a name, else `otherwise`."""
        return rank_in(self.raw, name, otherwise)

    def number_in(self, name: str, otherwise: float) -> float:
        """Return a number that the configuration has under a name, else `otherwise`."""
        return number_in(self.raw, name, otherwise)

    def flag_in(self, name: str) -> bool:
        """Return a flag of the configuration, false where it has none."""
        return flag_in(self.raw, name)


def matching(patterns: Mapping[str, Any], module: str) -> list[str]:
    r"""Return every pattern K for which `(.*\.)?(K)$` matches the module's name; PEFT takes the first.

    See `patterns` for what bounds the time this takes.
    """
    return [pattern for pattern in patterns if matches(pattern, module, CONFIG_NAME)]


def read_raw(folder: Path) -> Mapping[str, Any]:
    """Read the `adapter_config.json` of a folder, an empty mapping where there is none."""
    path = folder / CONFIG_NAME
    return strict_json.read(path) if exists(path) else {}


def read_config(raw: Mapping[str, Any]) -> AdapterConfig:
    """Check what `adapter_config.json` says. Raises FormatError naming the field that is wrong."""
    method = raw.get("peft_type")
    if not isinstance(method, str):
        raise _of_another_library(raw)
    method, ranks = method.upper(), _mapping(raw, "rank_pattern")
    alpha = "alpha" if "alpha" in raw and "lora_alpha" not in raw else "lora_alpha"
    typed = method in SCALED  # other methods have an r of their own meaning, which their families read
    return AdapterConfig(
        method=method,
        r=_rank(raw.get("r", 8), "r") if typed else 0,
        alpha=_number(raw.get(alpha, 8), alpha) if typed else number_in(raw, alpha, 0.0),
        rank_pattern={key: _rank(value, "rank_pattern") for key, value in ranks} if method not in _OWN_RANKS else {},
        alpha_pattern={key: _number(value, "alpha_pattern") for key, value in _mapping(raw, "alpha_pattern")},
        use_rslora=flag_in(raw, "use_rslora"),
        use_dora=flag_in(raw, "use_dora"),
        fan_in_fan_out=flag_in(raw, "fan_in_fan_out"),
        base_model=_text(raw, "base_model_name_or_path"),
        targets=_names(raw, "target_modules"),
        saved_modules=_names(raw, "modules_to_save"),
        task_type=_text(raw, "task_type"),
        raw=raw,
    )


def rank_in(raw: Mapping[str, Any], name: str, otherwise: int) -> int:
    """Return a whole number of a configuration. Raises FormatError for anything that is none above zero."""
    value = raw.get(name)
    return otherwise if value is None else _rank(value, name)


def number_in(raw: Mapping[str, Any], name: str, otherwise: float) -> float:
    """Return a number of a configuration. Raises FormatError for anything that is no finite number."""
    value = raw.get(name)
    return otherwise if value is None else _number(value, name)


def _of_another_library(raw: Mapping[str, Any]) -> InputError:
    """Return the error for a configuration that PEFT did not write, naming who did where that can be told."""
    inner = raw.get("config")
    if isinstance(inner, Mapping) and "model_class" in raw:
        kind = inner.get("architecture") or "bottleneck adapter"
        return UnsupportedError(
            f"{CONFIG_NAME} is that of the AdapterHub library ({show(kind)}), which this version does "
            "not read as a weight update; spectra.insertions measures bottlenecks and prefixes."
        )
    return FormatError(f"{CONFIG_NAME} has no peft_type: which method is this? PEFT writes 'LORA'.")


def _wrong(name: str, value: Any, wanted: str) -> FormatError:
    return FormatError(f"{CONFIG_NAME}: {name} is {show(repr(value), 40)}; it must be {wanted}.")


def _rank(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise _wrong(name, value, "a whole number above zero")
    return value


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < _LARGEST:
        raise _wrong(name, value, f"a finite number below {_LARGEST:g}")
    return float(value)


def flag_in(raw: Mapping[str, Any], name: str) -> bool:
    """Return a flag of a configuration, false where it has none. Raises FormatError for anything else."""
    value = raw.get(name)
    if not isinstance(value, bool | None):
        raise _wrong(name, value, "true or false")
    return bool(value)


def _text(raw: Mapping[str, Any], name: str) -> str | None:
    value = raw.get(name)
    return value if isinstance(value, str) and value else None


def _names(raw: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = raw.get(name)
    if isinstance(value, str):
        return (value,)
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def _mapping(raw: Mapping[str, Any], name: str) -> list[tuple[str, Any]]:
    value = raw.get(name)
    if not isinstance(value, dict | None):
        raise _wrong(name, value, "a mapping of module names to numbers")
    return list((value or {}).items())
