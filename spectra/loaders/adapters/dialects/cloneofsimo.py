"""The dialect of cloneofsimo/lora: factors numbered in the order in which the model's modules are passed.

`unet:3:up`, `unet:3:down`, in the metadata the classes whose layers are numbered (`unet` = `["CrossAttention",
"GEGLU"]`); in a `.pt` file a bare list `[up, down, up, ...]`. No names and no alpha: `dW = up down`. The number counts
the linear layers inside those classes as torch passes them, that is as they were defined. What is known of that order
is tried, every shape must fit, and where more than one order fits the file is refused.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from spectra.errors import FormatError, MatchError, UnsupportedError
from spectra.loaders.adapters.adapter import Adapter, Dialect, Found
from spectra.loaders.adapters.contents import Contents, Module
from spectra.loaders.adapters.dialects.image_names import placed
from spectra.loaders.adapters.dialects.stored_scales import StoredScales
from spectra.loaders.adapters.families.lora import LORA, fits
from spectra.loaders.adapters.family import Fit
from spectra.loaders.base import Base
from spectra.loaders.header import FLOATS
from spectra.loaders.plan import Plan
from spectra.text import listing, show

_NAME = re.compile(r"^(?P<model>\w+):(?P<index>\d{1,6}):(?P<side>up|down)$")
_LIST = "list"
_PARTS = {"up": "lora_B", "down": "lora_A"}
# The layers of a class in the order of its definition; the first is there in every instance.
_ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
_LAYERS = {
    "CrossAttention": _ATTENTION,
    "Attention": _ATTENTION,
    "GEGLU": ("proj",),
    "CLIPAttention": ("k_proj", "v_proj", "q_proj", "out_proj"),
    "ResnetBlock2D": ("conv1", "time_emb_proj", "conv2", "conv_shortcut"),
}
# What the first versions took when they wrote bare lists.
_CLASSES_OF_LISTS = (("CrossAttention",), ("CrossAttention", "GEGLU"), ("CLIPAttention",))
# The order of named siblings: diffusers has had the feed-forward of a block between its attentions, and after them.
_BLOCKS = ("down_blocks", "up_blocks", "mid_block", "attentions", "resnets")
_SIBLINGS = ((*_BLOCKS, "attn1", "ff", "attn2"), (*_BLOCKS, "attn1", "attn2", "ff"))
Shapes = Sequence[Fit]


def _recognises(found: Found) -> bool:
    return not found.raw and found.kins - {"inversion"} == {"cloneofsimo"}


def _read(found: Found, plan: Plan) -> Adapter:
    modules = _numbered(found, plan)
    shapes: dict[str, list[Fit]] = {}
    ranks: dict[str, float] = {}
    config = StoredScales(method="LORA", r=1, alpha=0.0, alphas=ranks)
    for name, module in modules.items():
        parts = {part: found.source.header.tensors[key].shape for part, key in module.parts.items()}
        shapes.setdefault(name.partition(":")[0], []).append(fits(name, parts, config))
        ranks[name] = float(parts["lora_A"][0])
    classes = {model: _classes(found, model) for model in shapes}
    return Adapter(config, found.source, Contents(modules), lambda base: _homes(base, shapes, classes))


def _numbered(found: Found, plan: Plan) -> dict[str, Module]:
    """Return the modules of each model in the order of their numbers, which leave none out."""
    parts: dict[tuple[str, int], dict[str, str]] = {}
    bare = all(key.isdecimal() for key in found.source.header.tensors)
    for key, info in found.source.header.tensors.items():
        match = _NAME.match(f"{_LIST}:{int(key) // 2}:{('up', 'down')[int(key) % 2]}" if bare else key)
        if match is None and re.fullmatch(r"<[^<>]*>", key):
            plan.skip(key, "an embedding of a new token: no update of a weight")
        elif match is None or info.dtype not in FLOATS:
            raise UnsupportedError(
                f"'{show(found.source.label)}': '{show(key)}' of {info.dtype} is no factor of cloneofsimo's LoRA."
            )
        else:
            parts.setdefault((match["model"], int(match["index"])), {})[_PARTS[match["side"]]] = key
    for model in {model for model, _ in parts}:
        numbers = sorted(number for owner, number in parts if owner == model)
        if numbers != list(range(len(numbers))):
            raise MatchError(
                f"'{show(found.source.label)}': the modules of '{show(model)}' are not numbered from 0 on without gaps."
            )
    names = {(model, number): f"{model}:{number}" for model, number in sorted(parts)}
    return {name: Module(name, name, LORA, parts[place]) for place, name in names.items()}


def _classes(found: Found, model: str) -> tuple[tuple[str, ...], ...]:
    """Return the sets of classes that the numbering may go over: what the metadata says, or what lists were made of."""
    if model == _LIST:
        return _CLASSES_OF_LISTS
    stored = found.source.header.metadata.get(model, "")
    try:
        classes = json.loads(stored)
    except (ValueError, RecursionError):
        classes = None
    if not isinstance(classes, list) or not classes or not all(isinstance(name, str) for name in classes):
        raise FormatError(
            f"'{show(found.source.label)}': its metadata does not list the classes that '{show(model)}' counts over."
        )
    unknown = sorted(set(classes) - _LAYERS.keys())
    if unknown:
        raise UnsupportedError(
            f"'{show(found.source.label)}' numbers the layers of {listing(unknown, 5)}, whose order is not known here."
        )
    return (tuple(classes),)


def _homes(
    base: Base, models: Mapping[str, Shapes], classes: Mapping[str, tuple[tuple[str, ...], ...]]
) -> Mapping[str, str]:
    """Map `model:number` to base keys. Raises MatchError where no order or more than one fits the shapes."""
    components: dict[str, dict[str, str]] = {}
    for component, path, key in placed(base):
        components.setdefault(component, {})[path] = key
    known, faults = {}, []
    for model, shapes in models.items():
        own = {name: paths for name, paths in components.items() if name in (model, "") or model == _LIST}
        orders = [
            tuple(paths[path] for path in order)
            for paths in own.values()
            for names in classes[model]
            for order in _orders(paths, names, base)
        ]
        fitting = [order for order in dict.fromkeys(orders) if _mismatch(order, shapes, base) is None]
        if len(fitting) == 1:
            known.update({f"{model}:{number}": key for number, key in enumerate(fitting[0])})
        elif fitting:
            raise MatchError(
                f"'{show(model)}': its modules are numbered and not named, and their shapes fit the base in "
                f"{len(fitting)} orders. Convert the file to diffusers' layout where it was trained."
            )
        elif own:
            faults.append(f"'{show(model)}': {_mismatch(orders[0], shapes, base) if orders else 'no such layers'}")
    if faults and not known:
        raise MatchError(
            f"numbered modules do not fit the base: {listing(faults, 2)}. Is this the base it was trained on?"
        )
    return known


def _mismatch(order: Sequence[str], shapes: Shapes, base: Base) -> str | None:
    """Say where the first factors are that do not fit, None when all of them do."""
    for number, (key, shape) in enumerate(zip(order, shapes, strict=False)):
        stored = base.layout(key).shape
        if stored != shape:
            return f"module {number} makes {list(shape)} and would be '{show(key)}' {list(stored)}"
    if len(order) != len(shapes):
        return f"{len(shapes)} modules in the file, {len(order)} such layers in the base"
    return None


def _orders(paths: Mapping[str, str], classes: Sequence[str], base: Base) -> Iterator[tuple[str, ...]]:
    """Yield the orders in which the layers of these classes may have been passed."""
    instances = _instances(paths, classes)
    if not instances:
        return
    for siblings in _SIBLINGS:
        order = _passed([tuple(name.split(".")) for name in instances], {name: at for at, name in enumerate(siblings)})
        if order is not None:
            yield tuple(layer for name in order for layer in instances[".".join(name)])
    if base.source.header.container in ("memory", "torch pickle"):  # these keep the order of definition
        inside = {layer for layers in instances.values() for layer in layers}
        yield tuple(path for path in paths if path in inside)


def _instances(paths: Mapping[str, str], classes: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the layers of every instance of the classes, told by the names of what is in it."""
    found: dict[str, tuple[str, ...]] = {}
    for name in classes:
        first, front = _LAYERS[name][0], "net.0." if name == "GEGLU" else ""
        for path in paths:
            if path.endswith(f".{front}{first}"):
                instance = path.removesuffix(f".{first}")
                layers = [f"{instance}.{layer}" for layer in _LAYERS[name]]
                found[instance] = tuple(layer for layer in layers if layer in paths)
    return found


def _passed(names: Collection[tuple[str, ...]], rank: Mapping[str, int]) -> list[tuple[str, ...]] | None:
    """Return names as torch passes them: numbers ascending, known siblings by rank; None where neither tells."""
    groups: dict[str, list[tuple[str, ...]]] = {}
    for name in names:
        groups.setdefault(name[0] if name else "", []).append(name[1:])
    if "" in groups:
        return [()] if len(groups) == 1 else None
    if len(groups) > 1 and all(head.isdecimal() for head in groups):
        heads = sorted(groups, key=int)
    elif len(groups) > 1 and all(head in rank for head in groups):
        heads = sorted(groups, key=lambda head: rank[head])
    elif len(groups) == 1:
        heads = list(groups)
    else:
        return None
    done = [(head, _passed(groups[head], rank)) for head in heads]
    if any(inner is None for _, inner in done):
        return None
    return [(head, *rest) for head, inner in done for rest in inner or ()]


CLONEOFSIMO = Dialect("cloneofsimo", _recognises, _read)
