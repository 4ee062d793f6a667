"""Plan the pairs of an adapter folder: every tensor is used, skipped with a reason, or an error."""

from collections.abc import Sequence
from pathlib import Path

from spectra.errors import MatchError
from spectra.loaders.adapters.beside import adapters_below, with_trained_beside
from spectra.loaders.adapters.config import AdapterConfig, read_config
from spectra.loaders.adapters.contents import Module, sort_tensors
from spectra.loaders.adapters.families import family_of
from spectra.loaders.adapters.family import Family
from spectra.loaders.adapters.placing import place
from spectra.loaders.adapters.reader import plan_adapted
from spectra.loaders.base import Base, plan_replaced
from spectra.loaders.formats import ADAPTER_NAMES
from spectra.loaders.plan import Plan, TunedInfo
from spectra.loaders.source import TensorSource, open_source
from spectra.text import listing, show


def plan_adapter(path: Path, base: Base, *, allow_unmatched: bool = False) -> Plan:
    """Match an adapter, given as its folder or its weights file, to its base.

    Raises UnsupportedError for a method that is not read, MatchError for tensors that match nothing
    (unless `allow_unmatched`) or shapes that disagree.
    """
    folder = path if path.is_dir() else path.parent
    config = read_config(folder)
    family = family_of(config)
    source = with_trained_beside(open_source(path, ADAPTER_NAMES), folder)
    plan = Plan(TunedInfo(source.label, "", 0, 0), source)
    contents = sort_tensors(family, plan)
    if not contents.modules:
        raise MatchError(
            f"'{show(source.label)}' has an adapter_config.json but no {family.method} tensors. If it is a merged "
            "model, give its weights file instead of its folder."
        )
    places = place(contents, base, plan, config, allow_unmatched=allow_unmatched)
    plan.notes.extend(family.notes(config))
    plan.alphas = {
        key: {module.configured: config.alpha_of(module.configured) for module in modules}
        for key, modules in places.adapted.items()
    }
    below = adapters_below(path)
    if below:
        plan.notes.append(f"the adapters in its subfolders ({listing(below, 5)}) are not read")
    for key in base.tensors:
        if key in places.adapted:
            plan_adapted(key, places.adapted[key], base, plan, family, config)
        elif key in places.replaced:
            plan.add(plan_replaced(base, key, source, places.replaced[key]))
    plan.info = _info(source, family, config, [module for modules in places.adapted.values() for module in modules])
    return plan


def _info(source: TensorSource, family: Family, config: AdapterConfig, modules: Sequence[Module]) -> TunedInfo:
    tensors = source.header.tensors
    ranks = [family.rank({part: tensors[key].shape for part, key in module.parts.items()}) for module in modules]
    return TunedInfo(
        label=source.label,
        method=family.label(config, {part: () for module in modules for part in module.parts}),
        parameters=source.header.parameters,
        bytes=source.header.bytes,
        ranks=tuple(sorted(set(ranks))),
        alphas=tuple(sorted({config.alpha_of(module.configured) for module in modules})),
        scalings=tuple(
            sorted({config.scaling_of(module.configured, r) for module, r in zip(modules, ranks, strict=True)})
        ),
        targets=tuple(sorted({module.name.rpartition(".")[2] for module in modules})),
        base_named=config.base_model,
    )
