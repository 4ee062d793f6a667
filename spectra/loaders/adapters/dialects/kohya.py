"""The dialect of kohya's sd-scripts, LyCORIS and A1111: one file, the method of each module told by its tensors.

A name is a prefix (`lora_unet`, `lora_te1`, `oft_unet`, `lycoris`), the module's path with `_` for `.`, and the part:
`lora_unet_mid_block_attentions_0_proj_in.lora_down.weight`. The path cannot be read back from that, so it is found
among the names of the base. Trainers that keep the dots write the same parts.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from spectra.errors import MatchError, UnsupportedError
from spectra.loaders import strict_json
from spectra.loaders.adapters.adapter import Adapter, Dialect, Found, homes
from spectra.loaders.adapters.contents import Contents, Module
from spectra.loaders.adapters.dialects.image_names import placed, spellings
from spectra.loaders.adapters.dialects.stored_scales import StoredScales, number_of
from spectra.loaders.adapters.families import lycoris_glora, lycoris_loha, lycoris_lokr, lycoris_lora, lycoris_tlora
from spectra.loaders.adapters.families.lycoris_full import DIFFERENCE
from spectra.loaders.adapters.families.lycoris_ia3 import IA3_FLAT
from spectra.loaders.adapters.families.lycoris_oft import BOFT_FLAT, OFT_FLAT
from spectra.loaders.adapters.family import Shapes, by_suffix
from spectra.loaders.base import Base
from spectra.loaders.header import FLOATS
from spectra.loaders.matching import plain
from spectra.loaders.plan import Plan
from spectra.loaders.source import TensorSource
from spectra.text import listing, show

# What alpha is divided by, for the families that have one.
_DIMENSIONS: dict[str, Callable[[Shapes], int | None]] = {
    lycoris_lora.LOCON.method: lycoris_lora.dimension,
    lycoris_loha.LOHA_FLAT.method: lycoris_loha.dimension,
    lycoris_lokr.LOKR_FLAT.method: lycoris_lokr.dimension,
    lycoris_glora.GLORA_FLAT.method: lycoris_glora.dimension,
    lycoris_tlora.TLORA.method: lycoris_tlora.dimension,
}
_FAMILIES = (
    lycoris_lora.LOCON,
    lycoris_loha.LOHA_FLAT,
    lycoris_lokr.LOKR_FLAT,
    lycoris_glora.GLORA_FLAT,
    lycoris_tlora.TLORA,
    OFT_FLAT,
    DIFFERENCE,
    IA3_FLAT,
)
_SHARED_PARTS = {"alpha", "scalar", "dora_scale"}
_VECTORS = by_suffix("diff_b", "w_norm", "b_norm")
_PREFIXES = {
    "unet": ("lora_unet", "oft_unet"),
    "transformer": ("lora_unet", "oft_unet", "lora_transformer"),
    "prior": ("lora_unet", "lora_prior"),
    "text_encoder": ("lora_te", "lora_te1"),
    "text_encoder_2": ("lora_te2", "lora_te3"),  # the T5 of Flux has been both
    "text_encoder_3": ("lora_te3",),
}
_ANY = "lycoris"


def _recognises(found: Found) -> bool:
    return not found.raw and found.kins == {"kohya"}


def _read(found: Found, plan: Plan) -> Adapter:
    contents = _sorted(found.source, plan)
    if not contents.modules:
        raise MatchError(f"'{show(found.source.label)}' holds no update of a weight matrix.")
    args = _arguments(found.source)
    config = StoredScales(method="kohya", r=1, alpha=0.0, raw=args)
    scales = {name: _scale(module, found, args, plan) for name, module in contents.modules.items()}
    known = {name: scale for name, scale in scales.items() if scale is not None}
    config = replace(
        config,
        alphas={name: alpha for name, (alpha, _) in known.items()},
        scalings={name: scaling for name, (_, scaling) in known.items()},
    )
    return Adapter(config, found.source, contents, lambda base: _homes(base, contents.modules))


def _sorted(source: TensorSource, plan: Plan) -> Contents:
    """Gather the tensors of each module and find its family; what is no update is skipped with its reason."""
    parts: dict[str, dict[str, str]] = {}
    for key in source.header.tensors:
        name = plain(key)
        parsed = next((parsed for family in _FAMILIES if (parsed := family.parse(name)) and parsed[2] is None), None)
        if _VECTORS(name) is not None or (parsed is not None and parsed[1].endswith(".bias")):
            plan.skip(key, "an update of a bias or of a norm: a vector, no singular vectors")
        elif name.startswith("bundle_emb."):
            plan.skip(key, "an embedding of a new token bundled with the adapter: no update of a weight")
        elif parsed is None:
            raise UnsupportedError(
                f"'{show(source.label)}': '{show(key)}' is no tensor of a method that is read (LoRA, LoHa, LoKr, "
                "GLoRA, IA3, OFT, BOFT, T-LoRA, full differences). Merge it where it was trained and diagnose the "
                "merged model as a full fine-tune."
            )
        else:
            _add(parts, parsed[0], parsed[1], key)
    return Contents({name: _module(name, found, source) for name, found in parts.items()})


def _add(parts: dict[str, dict[str, str]], module: str, part: str, key: str) -> None:
    if part in parts.setdefault(module, {}):
        raise MatchError(f"'{show(key)}' and '{show(parts[module][part])}' name the same factor.")
    parts[module][part] = key


def _module(name: str, parts: dict[str, str], source: TensorSource) -> Module:
    """Return a module with the one family that all its parts belong to."""
    able = [family for family in _FAMILIES if all(family.parse(f"{name}.{part}") for part in parts)]
    if len(able) != 1 or _SHARED_PARTS.issuperset(parts):
        raise MatchError(
            f"'{show(source.label)}': the parts of '{show(name)}' ({listing(parts)}) are not those of one method. "
            "Save it again where it was trained."
        )
    for part, key in parts.items():
        dtype = source.header.tensors[key].read_as
        if dtype not in FLOATS and part not in ("alpha", *able[0].integers):
            raise UnsupportedError(f"'{show(key)}' is stored as {dtype}, which is no floating-point factor.")
    butterfly = able[0] is OFT_FLAT and len(source.header.tensors[parts["oft_blocks"]].shape) == 4
    return Module(name, name, BOFT_FLAT if butterfly else able[0], parts)


def _arguments(source: TensorSource) -> Mapping[str, Any]:
    """Return what the trainer was told: the `ss_network_args` of the metadata, its flags as truth values."""
    stored = source.header.metadata.get("ss_network_args")
    if not stored or stored in ("null", "None"):
        return {}
    args = strict_json.parse(stored.encode(), f"ss_network_args of '{show(source.label)}'")
    flags = {"true": True, "false": False}
    return {name: flags.get(str(value).lower(), value) for name, value in args.items()}


def _scale(module: Module, found: Found, args: Mapping[str, Any], plan: Plan) -> tuple[float, float] | None:
    """Return alpha and the factor of a module's update: alpha / r, times a stored scalar."""
    source = found.source
    shapes: Shapes = {part: source.header.tensors[key].shape for part, key in module.parts.items()}
    if module.family.method not in _DIMENSIONS:
        return None
    r = _DIMENSIONS[module.family.method](shapes)
    scalar = _number(module, "scalar", source)
    if not r:  # no factored part, or none that is there: what is missing is told when shapes are compared
        _refuse_unknown_scale(module, args)
        return 1.0, 1.0 if scalar is None else scalar
    alpha = _number(module, "alpha", source)
    if alpha is None:
        alpha = found.alpha_given()
        taken = "alpha = r, a scaling of 1," if alpha is None else "the alpha given"
        note = f"modules without an alpha in the file: {taken} is taken"
        plan.notes += [note] if note not in plan.notes else []
    if alpha == 0:
        raise UnsupportedError(
            f"'{show(module.name)}': its alpha is 0, which some loaders take for no update and others for no scaling. "
            "Store the alpha that it was trained with."
        )
    return _scaled(module, r if alpha is None else alpha, r, args, 1.0 if scalar is None else scalar)


def _scaled(module: Module, alpha: float, r: int, args: Mapping[str, Any], scalar: float) -> tuple[float, float]:
    """LyCORIS folds the root of rsLoRA into the alpha that it stores, except for GLoRA."""
    root = module.family is lycoris_glora.GLORA_FLAT and args.get("rs_lora") is True
    return alpha, scalar * alpha / (r**0.5 if root else r)


def _refuse_unknown_scale(module: Module, args: Mapping[str, Any]) -> None:
    if args.get("rs_lora") is True and module.family is lycoris_lokr.LOKR_FLAT:
        raise UnsupportedError(
            f"'{show(module.name)}': a LoKr of two full factors trained with rs_lora: LyCORIS scales it in training "
            "by a rank that it does not store. Merge it where it was trained."
        )


def _number(module: Module, part: str, source: TensorSource) -> float | None:
    key = module.parts.get(part)
    return None if key is None else number_of(source, key)


def _homes(base: Base, names: Collection[str]) -> Mapping[str, str]:
    """Map the file's names of modules to base keys.

    Raises MatchError for a name that can be two modules, and for two names of one weight.
    """
    found: dict[str, list[str]] = {}
    every = spellings(base)
    for component, path, key in placed(base):
        for name in every(component, path):
            for prefix in _prefixes(component):
                found.setdefault(f"{prefix}_{name.replace('.', '_')}", []).append(key)
    keys = {name: list(dict.fromkeys(found[name])) for name in names if name in found}
    several = next((name for name, places in keys.items() if len(places) > 1), None)
    if several is not None:
        raise MatchError(
            f"'{show(several)}' can be {listing(keys[several], 4)} of the base: flattened, these names are the same. "
            "Give the one component of the base that was tuned."
        )
    _require_distinct({name: places[0] for name, places in keys.items()})
    return {**homes(base), **{name: places[0] for name, places in keys.items()}}


def _prefixes(component: str) -> tuple[str, ...]:
    """Return the prefixes that names of a component can have; of a base that is one model, all that there are."""
    if component:
        return (*_PREFIXES.get(component, (f"lora_{component}",)), _ANY)
    return (*dict.fromkeys(prefix for prefixes in _PREFIXES.values() for prefix in prefixes), _ANY)


def _require_distinct(keys: Mapping[str, str]) -> None:
    taken: dict[str, str] = {}
    for name, key in keys.items():
        other = taken.setdefault(key, name)
        if other != name:
            raise MatchError(
                f"'{show(other)}' and '{show(name)}' are both '{show(key)}' of the base. If they are of two text "
                "encoders, give the pipeline's folder, which has both."
            )


KOHYA = Dialect("kohya", _recognises, _read)
