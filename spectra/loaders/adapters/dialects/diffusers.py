"""The dialect of diffusers: `pytorch_lora_weights.safetensors`, LoRA named after component and module.

Three spellings of the factors: `unet.<module>.lora.down.weight` (text encoders: `.lora_linear_layer.down.weight`),
PEFT's `.lora_A.weight`, and `<attention>.processor.to_q_lora.down.weight` of its first versions. Alpha and rank stand
in the metadata as the JSON `lora_adapter_metadata`, keys `unet.lora_alpha`, or beside the factors as `.alpha`; with
neither the scaling is 1.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from spectra.errors import MatchError, UnsupportedError
from spectra.loaders import strict_json
from spectra.loaders.adapters.adapter import Adapter, Dialect, Found, homes
from spectra.loaders.adapters.config import AdapterConfig, read_config
from spectra.loaders.adapters.contents import Contents, Module
from spectra.loaders.adapters.dialects.image_names import placed, spellings
from spectra.loaders.adapters.dialects.stored_scales import StoredScales, number_of
from spectra.loaders.adapters.families.lora import LORA
from spectra.loaders.adapters.family import Family
from spectra.loaders.base import Base
from spectra.loaders.header import FLOATS
from spectra.loaders.matching import plain
from spectra.loaders.plan import Plan
from spectra.text import listing, show

METADATA = "lora_adapter_metadata"
_SPELLINGS = (
    re.compile(r"^(?P<module>.+?)(?:\.processor)?\.(?P<old>to_q|to_k|to_v|to_out)_lora\.(?P<side>down|up)\.weight$"),
    re.compile(r"^(?P<module>.+)\.(?:lora|lora_linear_layer)\.(?P<side>down|up)\.weight$"),
    re.compile(r"^(?P<module>.+)\.lora_(?P<side>A|B)\.weight$"),
    re.compile(r"^(?P<module>.+)\.(?P<side>lora_magnitude_vector)(?:\.weight)?$"),
    re.compile(r"^(?P<module>.+?)(?:\.lora)?\.(?P<side>alpha)$"),
)
_PARTS = {"down": "lora_A", "up": "lora_B", "A": "lora_A", "B": "lora_B"}
_IN_ATTENTION = {"to_out": "to_out.0"}
_IN_TEXT_ENCODER = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


@dataclass(frozen=True, slots=True)
class _Scale:
    alpha: float
    scaling: float


def _recognises(found: Found) -> bool:
    return not found.raw and found.kins == {"diffusers"}


def _read(found: Found, plan: Plan) -> Adapter:
    parts, alphas = _sorted(found, plan)
    declared = _declared(found)
    families = {component: _under(config) for component, config in declared.items()}
    modules = {name: Module(name, name, families.get(name.partition(".")[0], LORA), own) for name, own in parts.items()}
    scales = {name: _scale(module, alphas.get(name), declared, found, plan) for name, module in modules.items()}
    config = StoredScales(
        method="LORA",
        r=1,
        alpha=0.0,
        alphas={name: scale.alpha for name, scale in scales.items()},
        scalings={name: scale.scaling for name, scale in scales.items()},
    )
    return Adapter(config, found.source, Contents(modules), _homes)


def _sorted(found: Found, plan: Plan) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Gather the factors of each module and the alphas beside them."""
    parts: dict[str, dict[str, str]] = {}
    alphas: dict[str, str] = {}
    for key, info in found.source.header.tensors.items():
        name = plain(key)
        match = next((match for pattern in _SPELLINGS if (match := pattern.match(name))), None)
        if match is None and name.endswith(".bias"):
            plan.skip(key, "the bias of an adapter: a vector, no singular vectors")
        elif match is None:
            raise UnsupportedError(
                f"'{show(found.source.label)}': '{show(key)}' is no tensor of a LoRA as diffusers writes it."
            )
        elif match["side"] == "alpha":
            alphas[match["module"]] = key
            plan.skip(key, "the alpha of a LoRA: no update, its scaling")
        elif info.dtype not in FLOATS:
            raise UnsupportedError(f"'{show(key)}' is stored as {info.dtype}, which is no floating-point factor.")
        else:
            own, part = parts.setdefault(_module_of(match), {}), _PARTS.get(match["side"], match["side"])
            if part in own:
                raise MatchError(f"'{show(key)}' and '{show(own[part])}' name the same factor.")
            own[part] = key
    strange = [name for name in alphas if name not in parts]
    if strange:
        raise MatchError(f"'{show(found.source.label)}' has an alpha and no factors for {listing(strange, 3)}.")
    return parts, alphas


def _module_of(match: re.Match[str]) -> str:
    old = match.groupdict().get("old")
    if old is None:
        return match["module"]
    table = _IN_TEXT_ENCODER if match["module"].endswith("self_attn") else _IN_ATTENTION
    return f"{match['module']}.{table.get(old, old)}"


def _declared(found: Found) -> Mapping[str, AdapterConfig]:
    """Return the configuration of each component that the metadata has one of."""
    stored = found.source.header.metadata.get(METADATA)
    if not stored:
        return {}
    split: dict[str, dict[str, object]] = {}
    for name, value in strict_json.parse(stored.encode(), f"{METADATA} of '{show(found.source.label)}'").items():
        component, _, option = name.partition(".")
        split.setdefault(component, {})[option] = value
    configs = {
        component: replace(read_config({**raw, "peft_type": "LORA"}), as_stored=found.options.as_stored)
        for component, raw in split.items()
    }
    for config in configs.values():
        LORA.check(config)
    return configs


def _under(config: AdapterConfig) -> Family:
    """Return LoRA as the configuration of one component has it, in which modules are named without the component."""

    def path(module: str) -> str:
        return module.partition(".")[2]

    return replace(
        LORA,
        update=lambda target: LORA.update(replace(target, config=config, module=path(target.module))),
        label=lambda _, parts: LORA.label(config, parts),
        rank=lambda parts, _: LORA.rank(parts, config),
        fits=lambda module, parts, _: LORA.fits(path(module), parts, config),
        needs_base=lambda parts, _: LORA.needs_base(parts, config),
        doubts=lambda module, parts, _: LORA.doubts(path(module), parts, config),
    )


def _scale(
    module: Module, alpha_key: str | None, declared: Mapping[str, AdapterConfig], found: Found, plan: Plan
) -> _Scale:
    """Return alpha and scaling of a module: as the metadata says, as the tensor beside it says, as is given, else 1."""
    shape = found.source.header.tensors[module.parts["lora_A"]].shape if "lora_A" in module.parts else ()
    rank = shape[0] if shape and shape[0] else 1  # what is missing is told when shapes are compared
    beside = None if alpha_key is None else number_of(found.source, alpha_key)
    component, _, path = module.name.partition(".")
    config = declared.get(component)
    if config is not None:
        said = _Scale(config.alpha_of(path), config.scaling_of(path, rank))
        if beside is not None and beside != said.alpha:
            raise MatchError(f"'{show(module.name)}': its alpha is {beside:g}, the metadata says {said.alpha:g}.")
        return said
    alpha = found.alpha_given() if beside is None else beside
    if alpha is not None:
        return _Scale(alpha, alpha / rank)
    note = "the file says no alpha: the scaling is 1, as diffusers takes it"
    if note not in plan.notes:
        plan.notes.append(note)
    return _Scale(float(rank), 1.0)


def _homes(base: Base) -> Mapping[str, str]:
    """Map the base's own names, and those with and without `text_model`, to base keys."""
    known, every = dict(homes(base)), spellings(base)
    for component, path, key in placed(base):
        for name in every(component, path):
            known.setdefault(f"{component}.{name}" if component else name, key)
    return known


DIFFUSERS = Dialect("diffusers", _recognises, _read)
