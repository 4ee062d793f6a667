"""The tensors of an adapter file sorted by what they are: factors, weights in full, or no update at all."""

import re
from dataclasses import dataclass, field

from spectra.errors import MatchError, UnsupportedError
from spectra.loaders.adapters.family import Family
from spectra.loaders.header import FLOATS
from spectra.loaders.matching import plain
from spectra.loaders.methods import FULL, recognise
from spectra.loaders.plan import Plan
from spectra.text import listing, show

_WRAPPERS = ("base_model.model.", "base_model.")


@dataclass(frozen=True, slots=True)
class Module:
    """One adapted module: its name in the model, its name in the configuration's patterns, its family, its parts.

    parts : the tensor in the file, by the part it is.
    """

    name: str
    configured: str
    family: Family
    parts: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Contents:
    """Adapted modules by name, the tensors stored in full by the name they have in the model, and shared tensors.

    shared : the tensor in the file, by the name that the family gives it.
    """

    modules: dict[str, Module] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)


def sort_tensors(family: Family, plan: Plan) -> Contents:
    """Sort every tensor of an adapter file; what is no update goes to `plan.skipped` with its reason.

    Raises UnsupportedError for several adapters or another method's tensors in the file.
    """
    contents, names = Contents(), {key: _in_the_model(key) for key in plan.source.header.tensors}
    parsed = {key: family.parse(name) for key, name in names.items()}
    _refuse_several({found[2] for found in parsed.values() if found is not None}, plan.source.label)
    for key, name in names.items():
        found = parsed[key]
        if family.shared and re.fullmatch(family.shared, name):
            contents.shared[name] = key
        elif found is not None:
            _add_part(key, found[0], found[1], family, contents, plan)
        elif reason := _no_update(name, family):
            plan.skip(key, reason)
        else:
            _add_replaced(key, name, contents, plan)
    _refuse_foreign(contents, plan)
    return contents


def _in_the_model(key: str) -> str:
    name = plain(key)
    return next((name.removeprefix(front) for front in _WRAPPERS if name.startswith(front)), name)


def _refuse_several(adapters: set[str | None], label: str) -> None:
    if len(adapters) > 1:
        raise UnsupportedError(
            f"'{show(label)}' mixes several adapters or key styles in one file "
            f"({listing(sorted(name or 'unnamed' for name in adapters))}). Save one adapter a file."
        )


def _add_part(key: str, module: str, part: str, family: Family, contents: Contents, plan: Plan) -> None:
    if part.endswith(".bias"):
        plan.skip(key, "the bias of an adapter: a vector, no singular vectors")
        return
    dtype = plan.source.header.tensors[key].dtype
    if dtype not in FLOATS and part not in family.integers:
        raise UnsupportedError(f"'{show(key)}' is stored as {dtype}, which is no floating-point factor.")
    path = module.split(".")
    name = ".".join(step for step in path if step != "base_layer")
    # The output projection inside nn.MultiheadAttention takes rank and alpha of the attention around it.
    configured = ".".join(path[: path.index("base_layer")]) if "base_layer" in path else name
    parts = contents.modules.setdefault(name, Module(name, configured, family)).parts
    if part in parts:
        raise MatchError(f"'{show(key)}' and '{show(parts[part])}' name the same factor.")
    parts[part] = key


def _no_update(name: str, family: Family) -> str | None:
    path = name.split(".")
    if "original_module" in path or ("base_layer" in path and path[-1] != "bias"):
        return "a frozen copy of the base weight"
    return "the state of training, no part of the update" if family.is_state(name) else None


def _add_replaced(key: str, name: str, contents: Contents, plan: Plan) -> None:
    path = name.split(".")
    saved = "modules_to_save" in path
    if saved:  # `x.modules_to_save.default.weight`, and `x.modules_to_save.weight` without the adapter's name
        at = path.index("modules_to_save")
        path = path[:at] + path[at + (2 if len(path) - at > 2 else 1) :]
    home = ".".join(step for step in path if step != "base_layer")
    other = contents.replaced.get(home)
    if other is not None:
        key, other = (key, other) if saved else (other, key)
        plan.skip(other, f"a second copy of '{show(key)}'")
    contents.replaced[home] = key


def _refuse_foreign(contents: Contents, plan: Plan) -> None:
    tensors = plan.source.header.tensors
    foreign = recognise({key: tensors[key] for key in contents.replaced.values()}).methods
    if contents.replaced and foreign != (FULL,):
        raise UnsupportedError(
            f"'{show(plan.source.label)}' holds tensors of {listing(method.name for method in foreign)}, "
            "which this version does not read."
        )
