"""Plan the pairs of an adapter: every tensor is used, skipped with a reason, or an error."""

from collections.abc import Sequence
from dataclasses import replace

from spectra.loaders.adapters.adapter import Adapter, Dialect, Found
from spectra.loaders.adapters.beside import adapters_below
from spectra.loaders.adapters.contents import Module, shapes_of
from spectra.loaders.adapters.families.starts import base_changing
from spectra.loaders.adapters.orienting import orientation_doubts
from spectra.loaders.adapters.placing import Places, configured_keys, place
from spectra.loaders.adapters.reader import plan_adapted
from spectra.loaders.adapters.tied import tied_weights
from spectra.loaders.adapters.truncation import truncate
from spectra.loaders.base import Base, plan_replaced
from spectra.loaders.disagreements import Disagreements
from spectra.loaders.gguf_names import naming_of, require_comparable
from spectra.loaders.lineage import doubts
from spectra.loaders.options import given_as
from spectra.loaders.plan import Plan, TunedInfo
from spectra.loaders.replication import grown
from spectra.text import listing, show


def plan_adapter(found: Found, dialect: Dialect, base: Base) -> Plan:
    """Match an adapter to its base.

    Raises UnsupportedError for a method that is not read; one MatchError for all tensors that match nothing
    (unless the options allow it), all shapes that disagree and all factors that are missing.
    """
    plan = Plan(TunedInfo(found.source.label, "", 0, 0), found.source)
    ranges = found.raw.get("layer_replication")
    if ranges:
        base = plan.base = grown(base, ranges)
        found = replace(found, base=base)
    adapter = dialect.read(found, plan)
    plan.source = adapter.source
    require_comparable(base.naming, naming_of(adapter.source.header))
    faults = Disagreements(adapter.source.label, base.source.label)
    places = place(adapter, base, plan, found.options, faults)
    plan.alphas = {
        key: {module.configured: adapter.config.alpha_of(module.configured) for module in modules}
        for key, modules in places.adapted.items()
        if adapter.config.is_scaled
    }
    below = adapters_below(found.path)
    if below:
        plan.notes.append(f"the adapters in its subfolders ({listing(below, 5)}) are not read")
    for key in base.tensors:
        with faults.collected():
            if key in places.adapted:
                plan_adapted(key, places, base, plan, adapter)
            elif key in places.replaced:
                for planned in plan_replaced(base, key, adapter.source, places.replaced[key]):
                    plan.add(planned)
    faults.raise_any()
    plan.notes.extend(adapter.config.assumed())
    plan.notes.extend(orientation_doubts(places.adapted, base, adapter))
    plan.info, plan.targeted = _info(adapter, places, base), configured_keys(adapter, places, base)
    if found.options.truncate is not None:
        truncate(plan, found.options.truncate, (one for own in places.adapted.values() for one in own))
    _note_idle(found, plan)
    plan.notes.extend(doubts(base.source, adapter.source, adapter.config.base_model))
    return plan


def _note_idle(found: Found, plan: Plan) -> None:
    """Say which options found nothing to change: an alpha where the files have one, a start that took nothing."""
    options, label = found.options, show(plan.info.label)
    if options.alpha is not None and "alpha" not in found.needed:
        alphas = [f"{alpha:g}" for alpha in plan.info.alphas]
        own = f"that of '{label}' is {listing(alphas, 3)}" if alphas else f"'{label}' ({plan.info.method}) needs none"
        plan.idle["alpha"] = f"{given_as('alpha')} is for files that hold no alpha, and {own}"
    if options.as_stored and not plan.info.as_stored:
        plan.notes.append(f"{given_as('as_stored')} changes nothing: the start of '{label}' left the base as it was")


def _info(adapter: Adapter, places: Places, base: Base) -> TunedInfo:
    config, source, start = adapter.config, adapter.source, base_changing(adapter.config)
    modules = [module for modules in places.adapted.values() for module in modules]
    ranked = [(module, rank) for module in modules if (rank := _rank_of(module, adapter)) is not None]
    scaled = ranked if config.is_scaled else []
    return TunedInfo(
        label=source.label,
        method=_method(modules, adapter),
        parameters=source.header.parameters,
        bytes=source.header.bytes,
        ranks=tuple(sorted({rank for _, rank in ranked})),
        alphas=tuple(sorted({config.alpha_of(module.configured) for module, _ in scaled})),
        scalings=tuple(sorted({config.scaling_of(module.configured, rank) for module, rank in scaled})),
        targets=tuple(sorted({_target(module, key) for key, own in places.adapted.items() for module in own})),
        base_named=config.base_model,
        start=start,
        as_stored=config.as_stored and bool(start),
        rank_stabilised=config.use_rslora,
        tied=tied_weights(places.adapted, base),
    )


def _target(module: Module, key: str) -> str:
    """Return what a module is called among its siblings (`to_out.0`); of a name without steps, as the base calls it."""
    name = module.name if "." in module.name else key.removesuffix(".weight")
    front, _, last = name.rpartition(".")
    return f"{front.rpartition('.')[2]}.{last}" if last.isdecimal() and front else last


def _rank_of(module: Module, adapter: Adapter) -> int | None:
    return module.family.rank(shapes_of(module, adapter.source), adapter.config)


def _method(modules: Sequence[Module], adapter: Adapter) -> str:
    """Name the method, or each of several in one file."""
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    families = {module.family.method: module.family for module in modules}
    for module in modules:
        parts.setdefault(module.family.method, {}).update(dict.fromkeys(module.parts, ()))
    labels = [family.label(adapter.config, parts[method]) for method, family in families.items()]
    return " and ".join(dict.fromkeys(labels)) or "full fine-tuning"
