"""The configuration of an adapter folder, typed and checked. Torch-free."""

import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from spectra.errors import FormatError, UnsupportedError
from spectra.loaders import strict_json
from spectra.text import show

CONFIG_NAME = "adapter_config.json"
_COSTLY = re.compile(r"\)[*+{]|[*+}][*+{]")
_MAX_PATTERN, _MAX_WILDCARDS, _MAX_SECONDS = 1000, 3, 2.0


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What `adapter_config.json` says, in PEFT's words; `raw` keeps the rest."""

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
    raw: Mapping[str, Any] = field(default_factory=dict)

    def rank_of(self, module: str) -> int:
        """Return the rank that the configuration gives a module, by PEFT's own pattern matching."""
        return self.rank_pattern.get(pattern_key(self.rank_pattern, module), self.r)

    def alpha_of(self, module: str) -> float:
        """Return the alpha that the configuration gives a module."""
        return self.alpha_pattern.get(pattern_key(self.alpha_pattern, module), self.alpha)

    def scaling_of(self, module: str) -> float:
        """Return alpha / r, or alpha / sqrt(r) with rsLoRA (arXiv:2312.03732)."""
        rank = self.rank_of(module)
        return self.alpha_of(module) / (math.sqrt(rank) if self.use_rslora else rank)


def pattern_key(patterns: Mapping[str, Any], module: str) -> str:
    r"""Return the first pattern K for which `(.*\.)?(K)$` matches the module's name, else the name.

    The patterns are regular expressions from a stranger: those that can take exponential time are
    refused, and matching stops after two seconds.
    """
    started = time.monotonic()
    for pattern in patterns:
        if len(pattern) > _MAX_PATTERN or _COSTLY.search(pattern):
            raise UnsupportedError(
                f"{CONFIG_NAME}: the pattern '{show(pattern)}' can take for ever to match. Write the module names out."
            )
        if len(re.findall(r"(?<!\\)[*+{]", pattern)) > _MAX_WILDCARDS or len(module) > 512:
            raise UnsupportedError(f"{CONFIG_NAME}: the pattern '{show(pattern)}' has too many wildcards.")
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                return pattern
        except (re.error, RecursionError, OverflowError):
            raise FormatError(f"{CONFIG_NAME}: '{show(pattern)}' is not a regular expression.") from None
        if time.monotonic() - started > _MAX_SECONDS:
            raise UnsupportedError(f"{CONFIG_NAME}: its patterns take too long to match.")
    return module


def read_config(folder: Path) -> AdapterConfig:
    """Read and check `adapter_config.json`. Raises FormatError naming the field that is wrong."""
    raw = strict_json.read(folder / CONFIG_NAME)
    method = raw.get("peft_type")
    if not isinstance(method, str):
        raise FormatError(f"{CONFIG_NAME} has no peft_type: which method is this? PEFT writes 'LORA'.")
    if method.upper() != "LORA":
        return AdapterConfig(method.upper(), 0, 0.0, base_model=_text(raw, "base_model_name_or_path"), raw=raw)
    return AdapterConfig(
        method="LORA",
        r=_rank(raw.get("r", 8), "r"),
        alpha=_number(raw.get("lora_alpha", 8), "lora_alpha"),
        rank_pattern={key: _rank(value, "rank_pattern") for key, value in _mapping(raw, "rank_pattern")},
        alpha_pattern={key: _number(value, "alpha_pattern") for key, value in _mapping(raw, "alpha_pattern")},
        use_rslora=_flag(raw, "use_rslora"),
        use_dora=_flag(raw, "use_dora"),
        fan_in_fan_out=_flag(raw, "fan_in_fan_out"),
        base_model=_text(raw, "base_model_name_or_path"),
        targets=_names(raw, "target_modules"),
        saved_modules=_names(raw, "modules_to_save"),
        task_type=_text(raw, "task_type"),
        raw=raw,
    )


def _wrong(name: str, value: Any, wanted: str) -> FormatError:
    return FormatError(f"{CONFIG_NAME}: {name} is {show(repr(value), 40)}; it must be {wanted}.")


def _rank(value: Any, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
        raise _wrong(name, value, "a whole number above zero")
    return value


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _wrong(name, value, "a finite number")
    return float(value)


def _flag(raw: Mapping[str, Any], name: str) -> bool:
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
