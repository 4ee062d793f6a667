"""Where the tensors of an adapter belong in the base."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from spectra.errors import InputError, MatchError, UnsupportedError
from spectra.loaders.adapters.adapter import Adapter
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.contents import Contents, Module
from spectra.loaders.adapters.families.tokens import TOKENS
from spectra.loaders.adapters.targets import parameters, targeted
from spectra.loaders.base import HEADS, Base, head_of_other_size
from spectra.loaders.disagreements import Disagreements
from spectra.loaders.header import FLOATS
from spectra.loaders.matching import Prefix, find_prefix, plain
from spectra.loaders.options import ReadOptions, given_as
from spectra.loaders.plan import Plan
from spectra.text import listing, nearest, show

_LOST = "matches nothing in the base"
_TIED = "in the base it is tied to"


@dataclass(frozen=True, slots=True)
class Places:
    """For a base key: the modules that adapt it (several where they are tied), or the tensor that replaces it."""

    adapted: Mapping[str, list[Module]]
    replaced: Mapping[str, str]


def place(adapter: Adapter, base: Base, plan: Plan, options: ReadOptions, faults: Disagreements) -> Places:
    """Find the base weight of every adapted module and of every tensor stored in full.

    What matches nothing is added to `faults`, or skipped where the options allow it. Raises UnsupportedError
    for a weight that is both stored in full and adapted by factors.
    """
    contents = adapter.contents
    known = adapter.homes(base)
    if contents.everywhere is not None:
        names = targeted(adapter.config, known)
        contents.modules.update({name: Module(name, name, contents.everywhere) for name in names})
    told = _told(contents, options.names, known, plan)
    untold = [name for name in contents.modules if name not in told]
    placeable = [name for name in untold if name in known or base.tied_to(name) is None]
    rule = find_prefix(placeable or list(contents.modules), known, f"'{show(plan.source.label)}'")
    if rule.strip or rule.add:
        plan.notes.append(f"the adapter's names match the base {rule}")
    adapted, lost = _place_modules(contents, base, known, rule, told)
    replaced, strange = _place_replaced(contents, base, plan, adapter.config, rule)
    if not options.allow_unmatched:
        faults.add_unmatched(lost, known)
        faults.add_unmatched(strange, [plain(base.name(key)) for key in base.tensors])
    for key in (*(key for name in lost for key in contents.modules[name].parts.values()), *strange.values()):
        plan.skip(key, _LOST)
    both = adapted.keys() & replaced.keys()
    if both:
        raise UnsupportedError(f"{listing(sorted(both), 3)}: stored in full and adapted by factors at once.")
    return Places(adapted, replaced)


def configured_keys(adapter: Adapter, places: Places, base: Base) -> frozenset[str] | None:
    """Return the base keys that the configuration puts the adapter on, None where it does not tell.

    That is so without target_modules, with rules that are not read, and where the adapted weights themselves are not
    among those named: its names are then not the base's.
    """
    raw, known = adapter.config.raw, adapter.homes(base)
    if not raw.get("target_modules") and not raw.get("target_parameters"):
        return None
    try:
        keys = {known[name] for name in (*targeted(adapter.config, known), *parameters(adapter.config, known))}
    except InputError:
        return None
    own = {key for key, modules in places.adapted.items() if any(module.family is not TOKENS for module in modules)}
    return frozenset(keys) if own <= keys else None


def _told(contents: Contents, names: Mapping[str, str], known: Mapping[str, str], plan: Plan) -> dict[str, str]:
    """Return the base key of every module that the caller placed; names of no module of the adapter are `plan.idle`.

    Raises MatchError for a name that is not in the base.
    """
    for name, home in names.items():
        if name not in contents.modules:
            where = f"{given_as('names')}: '{show(name)}' is no module of '{show(plan.source.label)}'"
            plan.idle[f"names {name}"] = where + _hint(name, contents.modules)
        if home not in known:
            raise MatchError(f"{given_as('names')}: '{show(home)}' is no module of the base{_hint(home, known)}.")
    return {name: known[home] for name, home in names.items() if name in contents.modules}


def _hint(word: str, words: Collection[str]) -> str:
    like = nearest(word, words)
    return f" (the nearest there: '{show(like)}')" if like else ""


def _place_modules(
    contents: Contents, base: Base, known: Mapping[str, str], rule: Prefix, told: Mapping[str, str]
) -> tuple[dict[str, list[Module]], list[str]]:
    adapted: dict[str, list[Module]] = {}
    lost = []
    for name, module in contents.modules.items():
        key = told.get(name) or (known.get(rule(name)) if name.startswith(rule.strip) else None)
        key = key or base.tied_to(name)
        if key is None:
            lost.append(name)
        else:
            index = base.expert(key, rule(name)) if module.index is None else module.index
            adapted.setdefault(base.tensors[key].alias or key, []).append(replace(module, index=index))
    return adapted, lost


def _place_replaced(
    contents: Contents, base: Base, plan: Plan, config: AdapterConfig, rule: Prefix
) -> tuple[dict[str, str], dict[str, str]]:
    """Match tensors stored in full: `modules_to_save`, resized embeddings, trained biases; and what is lost."""
    keys = {plain(base.name(key)): key for key in base.tensors}
    heads = (*config.saved_modules, *(HEADS if config.task_type else ()))
    homes, lost = {}, {}
    for name, key in contents.replaced.items():
        home = keys.get(rule(name), keys.get(name))
        reason = _reason_against(name, key, home, base, plan, heads)
        if reason == _LOST:
            lost[name] = key
        elif reason is not None:
            plan.skip(key, reason)
            if reason.startswith(_TIED):
                plan.notes.append(f"'{show(name)}' was trained in full and is left out: {reason}")
        elif home is not None:
            homes[home] = key
    return homes, lost


def _reason_against(
    name: str, key: str, home: str | None, base: Base, plan: Plan, heads: tuple[str, ...]
) -> str | None:
    info = plan.source.header.tensors[key]
    if len(info.shape) < 2:
        return "a vector or scalar: it has no singular vectors"
    if info.read_as not in FLOATS:
        return f"stored as {info.dtype}: not a floating-point weight"
    if home is not None:
        return base.unfit(home) or head_of_other_size(home, base.tensors[home].shape, info.shape)
    tied = base.tied_to(name.removesuffix(".weight"))
    if tied is not None:
        return f"{_TIED} '{show(tied)}' and not stored"
    return "a new module: the base has no such weight" if any(f".{head}." in f".{name}." for head in heads) else _LOST
