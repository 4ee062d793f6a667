"""The tensors of an adapter file sorted by what they are: factors, weights in full, or no update at all."""

import re
from dataclasses import dataclass, field, replace

from spectra.errors import MatchError, UnsupportedError
from spectra.loaders.adapters.family import Family, Parsed
from spectra.loaders.header import FLOATS
from spectra.loaders.matching import plain
from spectra.loaders.methods import FULL, recognise
from spectra.loaders.plan import Plan
from spectra.loaders.source import TensorSource
from spectra.text import listing, show

_WRAPPERS = ("base_model.model.", "base_model.")
_INNER = re.compile(r"(?:\.base_layer)+$")


@dataclass(frozen=True, slots=True)
class Module:
    """One adapted module: its name in the model, its name in the configuration's patterns, its family, its parts.

    parts : the tensor in the file, by the part it is. index : the number of the expert that it adapts, where the
    base has them stacked in one tensor. share : how many modules have these tensors in common.
    """

    name: str
    configured: str
    family: Family
    parts: dict[str, str] = field(default_factory=dict)
    index: int | None = None
    share: int = 1


def shapes_of(module: Module, source: TensorSource) -> dict[str, tuple[int, ...]]:
    """Return the stored shape of every part of a module."""
    return {part: source.header.tensors[key].shape for part, key in module.parts.items()}


@dataclass(frozen=True, slots=True)
class Contents:
    """Adapted modules by name, the tensors stored in full by the name they have in the model, and shared tensors.

    shared : the tensor in the file, by the name that the family gives it. everywhere : the family whose shared tensors
    adapt every module that the configuration targets, where no module has tensors of its own.
    """

    modules: dict[str, Module] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    everywhere: Family | None = None


def sort_tensors(family: Family, plan: Plan) -> Contents:
    """Sort every tensor of an adapter file; what is no update goes to `plan.skipped` with its reason.

    Raises UnsupportedError for several adapters or another method's tensors in the file.
    """
    contents, names = Contents(), {key: _in_the_model(key) for key in plan.source.header.tensors}
    parsed = {key: _parsed(name, family) for key, name in names.items()}
    _refuse_several({found[2] for _, found in parsed.values() if found is not None}, plan.source.label)
    for key, name in names.items():
        own, found = parsed[key]
        if family.shared and re.fullmatch(family.shared, name):
            contents.shared[name] = key
        elif found is not None:
            _add_part(key, found[0], found[1], own, contents, plan)
        elif reason := _no_update(name, family):
            plan.skip(key, reason)
        else:
            _add_replaced(key, name, contents, plan)
    _refuse_foreign(contents, plan, family)
    implied = family.everywhere and contents.shared and not contents.modules
    return replace(contents, everywhere=family) if implied else contents


def _parsed(name: str, family: Family) -> tuple[Family, Parsed | None]:
    """Return what a name is of, in this family or in one whose modules may lie beside its own."""
    found = ((own, own.parse(name)) for own in (family, *family.beside))
    return next((pair for pair in found if pair[1] is not None), (family, None))


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
    dtype = plan.source.header.tensors[key].read_as
    if dtype not in FLOATS and part not in family.integers:
        raise UnsupportedError(f"'{show(key)}' is stored as {dtype}, which is no floating-point factor.")
    path = module.split(".")
    # A wrapper around a wrapped module, as target_parameters nests them, keeps the steps that end its path.
    inner = module[len(_INNER.sub("", module)) :]
    name = ".".join(step for step in path if step != "base_layer") + inner
    # The output projection inside nn.MultiheadAttention takes rank and alpha of the attention around it.
    configured = ".".join(path[: path.index("base_layer")]) if "base_layer" in path else name
    known = contents.modules.setdefault(name, Module(name, configured, family))
    parts = known.parts
    if known.family is not family:
        raise UnsupportedError(f"'{show(name)}' is adapted by {known.family.method} and by {family.method} at once.")
    if part in parts:
        raise MatchError(f"'{show(key)}' and '{show(parts[part])}' name the same factor.")
    parts[part] = key


def _no_update(name: str, family: Family) -> str | None:
    path = name.split(".")
    if "original_module" in path or ("base_layer" in path and path[-1] != "bias"):
        return "a frozen copy of the base weight"
    if family.vectors and re.fullmatch(family.vectors, name):
        return "a trained bias or norm: a vector, no singular vectors"
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


def _refuse_foreign(contents: Contents, plan: Plan, family: Family) -> None:
    tensors = plan.source.header.tensors
    foreign = recognise({key: tensors[key] for key in contents.replaced.values()}).methods
    if contents.replaced and foreign != (FULL,):
        raise UnsupportedError(
            f"'{show(plan.source.label)}' is an adapter of {family.method} by its configuration, and holds tensors of "
            f"{listing(method.name for method in foreign)}. Give the configuration that was saved with them."
        )
