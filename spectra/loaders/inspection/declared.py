"""What a file's own words say of it: configuration files, safetensors and GGUF metadata. Torch-free.

Alphas are read where each dialect keeps them: PEFT and AdapterHub in their configuration, kohya in
scalar tensors, MLX and GGUF in one number for the whole file, diffusers in the metadata or nowhere.
"""

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spectra.errors import InputError
from spectra.loaders import strict_json
from spectra.loaders.adapters.config import CONFIG_NAME, SCALED, AdapterConfig, read_config
from spectra.loaders.files import exists, open_regular
from spectra.loaders.header import Header
from spectra.loaders.methods import Contents, Method, rank_of
from spectra.loaders.quantization.declared import completed

WRAPPERS = ("base_model.model.", "base_model.")
_SCALARS = {"float16": "<e", "float32": "<f", "float64": "<d", "int32": "<i", "int64": "<q"}


@dataclass(frozen=True, slots=True)
class Declared:
    """Configurations as found beside the weights; None or empty where there is none.

    adapter : `adapter_config.json` as it stands; peft : the same, typed, when PEFT wrote it; foreign : why it
    is not read when another library did; model : `config.json`; metadata : what the container carries.
    """

    adapter: Mapping[str, Any] | None
    peft: AdapterConfig | None
    foreign: str | None
    model: Mapping[str, Any]
    metadata: Mapping[str, str]

    @property
    def peft_type(self) -> str | None:
        return self.peft.method if self.peft is not None else None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that is known of a file before any weight is read; `packed` names the scheme of packed weights."""

    header: Header
    contents: Contents
    method: Method
    declared: Declared
    packed: str | None = None

    @property
    def ranks(self) -> dict[str, int]:
        """The stored rank of each module that has one."""
        found = {
            module: rank_of(self.method, self.header.tensors, factors)
            for module, factors in self.contents.modules.items()
        }
        return {module: rank for module, rank in found.items() if rank is not None}

    def faulty(self) -> dict[str, list[str]]:
        """Return the modules whose two factors are no product, by fault: "missing", "inner" or "above".

        Missing: one factor is not there. Inner: they disagree about the rank. Above: the rank exceeds the
        matrix, which is legal and wasteful.
        """
        found: dict[str, list[str]] = {"missing": [], "inner": [], "above": []}
        ranks = self.ranks if self.method.product else {}
        for name, factors in self.contents.modules.items() if self.method.product else ():
            if factors.down is None or factors.up is None:
                found["missing"].append(name)
                continue
            down, up, rank = self.header.tensors[factors.down], self.header.tensors[factors.up], ranks.get(name)
            if len(down.shape) == len(up.shape) == 2 and rank not in up.shape:
                found["inner"].append(name)
            elif rank and up.parameters and rank > min(down.parameters // rank, up.parameters // rank):
                found["above"].append(name)
        return found


@dataclass(frozen=True, slots=True)
class Scale:
    """The distinct alphas and scalings of a file, and how one follows from the other."""

    alphas: tuple[float, ...] = ()
    scalings: tuple[float, ...] = ()
    formula: str = ""


def read_declared(folder: Path, header: Header, *, adapter: bool) -> Declared:
    """Read the configurations beside a weights file. `adapter` says whether an adapter's belongs to it."""
    config = folder / CONFIG_NAME
    raw = strict_json.read(config) if adapter and exists(config) else None
    typed, foreign = None, None
    if raw is not None:
        try:
            typed = read_config(raw)
        except InputError as fault:
            if "peft_type" in raw:
                raise
            foreign = str(fault).rstrip(".")
    own = folder / "config.json"
    model = completed(strict_json.read(own) if exists(own) else {}, folder)
    return Declared(raw, typed, foreign, model, header.metadata)


def plain(module: str) -> str:
    """Return a module's name without PEFT's wrapper in front."""
    return next((module.removeprefix(front) for front in WRAPPERS if module.startswith(front)), module)


def base_named(declared: Declared) -> str | None:
    """Return the base model that the file names, wherever its dialect names it."""
    adapter = declared.adapter or {}
    places = (
        adapter.get("base_model_name_or_path"),
        adapter.get("model_name"),
        adapter.get("model") if "fine_tune_type" in adapter else None,
        declared.metadata.get("general.base_model.0.name"),
        declared.metadata.get("ss_sd_model_name"),
        declared.model.get("_name_or_path"),
    )
    return next((place for place in places if isinstance(place, str) and place), None)


def number(value: Any) -> float | None:
    """Return a finite number from a configuration or a text, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def scale(evidence: Evidence) -> Scale:
    """Return the alphas and scalings a file declares. Raises UnsupportedError for patterns that are refused."""
    rule = _SCALES.get(evidence.method.kin)
    return rule(evidence) if rule is not None else Scale()


def _distinct(values: list[float]) -> tuple[float, ...]:
    return tuple(sorted(set(values)))


def _over_rank(evidence: Evidence, alpha: float | None, formula: str = "alpha / r") -> Scale:
    """One alpha for the whole file, divided by each module's stored rank."""
    if alpha is None:
        return Scale()
    ranks = {rank for rank in evidence.ranks.values() if rank}
    return Scale((alpha,), _distinct([alpha / rank for rank in ranks]), formula)


def _of_peft(evidence: Evidence) -> Scale:
    declared = evidence.declared
    raw = declared.adapter or {}
    if declared.peft_type in SCALED and declared.peft is not None and evidence.contents.modules:
        config = declared.peft
        modules = {
            plain(name).replace(".base_layer", ""): evidence.ranks.get(name) for name in evidence.contents.modules
        }
        formula = "alpha / sqrt(r), rsLoRA" if config.use_rslora else "alpha / r"
        alphas = _distinct([config.alpha_of(module) for module in modules])
        return Scale(alphas, _distinct([config.scaling_of(*module) for module in modules.items()]), formula)
    alpha = number(raw.get("lora_alpha", raw.get("alpha")))
    divisor = number(raw.get("init_r" if declared.peft_type == "ADALORA" else "r"))
    if alpha is None or not divisor or not evidence.contents.modules:
        return Scale((alpha,) if alpha is not None else ())
    return Scale((alpha,), (alpha / divisor,), "alpha / init_r" if declared.peft_type == "ADALORA" else "alpha / r")


def _of_kohya(evidence: Evidence) -> Scale:
    ranks = evidence.ranks
    stored = _stored_alphas(evidence.header) if ranks else {}
    alphas = [alpha for alpha in stored.values() if math.isfinite(alpha)]
    scalings = [stored[module] / rank for module, rank in ranks.items() if module in stored and rank]
    return Scale(_distinct(alphas), _distinct([value for value in scalings if math.isfinite(value)]), "alpha / r")


def _stored_alphas(header: Header) -> dict[str, float]:
    """Read the scalar `alpha` tensors of a safetensors file: the only weights that are looked at."""
    keys = [
        key
        for key, info in header.tensors.items()
        if key.endswith(".alpha") and info.parameters == 1 and info.dtype in (*_SCALARS, "bfloat16")
    ]
    path = header.tensors[keys[0]].file if keys else None
    if header.container != "safetensors" or path is None:
        return {}
    with open_regular(path) as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
        found = {}
        for key in keys:
            begin, end = entries[key]["data_offsets"]
            file.seek(8 + length + begin)
            found[key.removesuffix(".alpha")] = _scalar(file.read(end - begin), header.tensors[key].dtype)
    return found


def _scalar(raw: bytes, dtype: str) -> float:
    if dtype == "bfloat16":
        return float(struct.unpack("<f", b"\0\0" + raw)[0])
    return float(struct.unpack(_SCALARS[dtype], raw)[0])


def _of_diffusers(evidence: Evidence) -> Scale:
    stored = _of_kohya(evidence)
    if stored.alphas:
        return stored
    try:
        told = json.loads(evidence.declared.metadata.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError):
        told = {}
    told = told if isinstance(told, dict) else {}
    pairs = {
        key.removesuffix("lora_alpha"): (number(value), number(told.get(key.removesuffix("lora_alpha") + "r")))
        for key, value in told.items()
        if key.endswith("lora_alpha")
    }
    known = [(alpha, rank) for alpha, rank in pairs.values() if alpha is not None and rank]
    alphas = _distinct([alpha for alpha, _ in known])
    return Scale(alphas, _distinct([alpha / (rank or 1) for alpha, rank in known]), "alpha / r, from the metadata")


def _of_mlx(evidence: Evidence) -> Scale:
    parameters = (evidence.declared.adapter or {}).get("lora_parameters")
    factor = number(parameters.get("scale")) if isinstance(parameters, dict) else None
    return Scale((), (factor,), "MLX's own factor") if factor is not None else Scale()


def _of_hub(evidence: Evidence) -> Scale:
    config = (evidence.declared.adapter or {}).get("config")
    alpha = number(config.get("alpha")) if isinstance(config, dict) else None
    return _over_rank(evidence, alpha)


def _of_gguf(evidence: Evidence) -> Scale:
    alpha = number(evidence.declared.metadata.get("adapter.lora.alpha"))
    return Scale((0.0,), (1.0,), "an alpha of 0 means 1") if alpha == 0 else _over_rank(evidence, alpha)


def _of_torchtune(evidence: Evidence) -> Scale:
    return _over_rank(evidence, number((evidence.declared.adapter or {}).get("lora_alpha")))


_SCALES: Mapping[str, Callable[[Evidence], Scale]] = {
    "peft": _of_peft,
    "kohya": _of_kohya,
    "diffusers": _of_diffusers,
    "mlx": _of_mlx,
    "hub": _of_hub,
    "gguf": _of_gguf,
    "torchtune": _of_torchtune,
}
