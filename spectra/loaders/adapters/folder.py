"""Plan the pairs of an adapter folder: every tensor is used, skipped with a reason, or an error."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from spectra.errors import MatchError, UnsupportedError
from spectra.layout import Layout
from spectra.loaders.adapters.config import AdapterConfig, read_config
from spectra.loaders.adapters.families import family_of
from spectra.loaders.adapters.family import Family, Target
from spectra.loaders.base import HEADS, Base, common_rows, replaced_pair, storage_of
from spectra.loaders.formats import ADAPTER_NAMES
from spectra.loaders.header import FLOATS
from spectra.loaders.matching import find_prefix, tied_embedding, unmatched
from spectra.loaders.plan import Plan, Planned, TunedInfo
from spectra.loaders.source import TensorSource, open_source
from spectra.text import listing, show
from spectra.updates import LowRank, Update, WeightPair

_WRAPPERS = ("base_model.model.", "base_model.")
_WEIGHT_NAMES = (".weight", ".in_proj_weight", "")


@dataclass(slots=True)
class _Contents:
    """The tensors of an adapter file sorted by what they are."""

    modules: dict[str, dict[str, str]] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)
    adapters: set[str | None] = field(default_factory=set)


def plan_adapter(path: Path, base: Base, *, allow_unmatched: bool = False) -> Plan:
    """Match an adapter folder to its base.

    Raises UnsupportedError for a method that is not read, MatchError for tensors that match nothing
    (unless `allow_unmatched`) or shapes that disagree.
    """
    config = read_config(path)
    family = family_of(config)
    source = open_source(path, ADAPTER_NAMES)
    plan = Plan(TunedInfo(source.label, "", 0, 0), source)
    contents = _sort(source, family, plan)
    homes = _place_modules(contents, base, plan, allow_unmatched)
    plan.info = _info(source, family, config, contents)
    by_key: dict[str, list[str]] = {}
    for module, key in homes.items():
        by_key.setdefault(key, []).append(module)
    replaced = _place_replaced(contents, base, plan, config, allow_unmatched)
    _refuse_both(by_key, replaced)
    for key in base.tensors:
        if key in by_key:
            _plan_module(key, by_key[key], contents, base, plan, family, config)
        elif key in replaced:
            plan.add(Planned(key, _replacement(base, key, source, replaced[key])))
    return plan


def _sort(source: TensorSource, family: Family, plan: Plan) -> _Contents:
    contents = _Contents()
    for key in source.header.tensors:
        name = next((key.removeprefix(front) for front in _WRAPPERS if key.startswith(front)), key)
        parsed = family.parse(name)
        if parsed is not None:
            module, part, adapter = parsed
            contents.adapters.add(adapter)
            if part.endswith(".bias"):
                plan.skip(key, "the bias of an adapter: a vector, no singular vectors")
                continue
            parts = contents.modules.setdefault(module.replace(".base_layer", ""), {})
            if part in parts:
                raise MatchError(f"'{show(key)}' and '{show(parts[part])}' name the same factor.")
            parts[part] = key
        elif "original_module" in name.split(".") or name.endswith("base_layer.weight"):
            plan.skip(key, "a frozen copy of the base weight")
        else:
            contents.replaced[_plain(name)] = key
    named = sorted(name for name in contents.adapters if name is not None)
    if len(contents.adapters) > 1:
        raise UnsupportedError(
            f"'{show(source.label)}' mixes several adapters or key styles in one file "
            f"({listing([*named, 'unnamed'] if None in contents.adapters else named)}). Save one adapter a file."
        )
    return contents


def _plain(name: str) -> str:
    parts = name.split(".")
    if "modules_to_save" in parts:
        at = parts.index("modules_to_save")
        # `x.modules_to_save.default.weight` and the older `x.modules_to_save.weight`
        parts = parts[:at] + parts[at + (2 if len(parts) - at > 2 else 1) :]
    return ".".join(part for part in parts if part != "base_layer")


def _homes(base: Base) -> dict[str, str]:
    """Map every name a module can have to the base key of its weight."""
    known: dict[str, str] = {}
    for key, info in base.tensors.items():
        if len(info.shape) < 2:
            continue
        for suffix in _WEIGHT_NAMES:
            if key.endswith(suffix):
                known.setdefault(key.removesuffix(suffix), key)
    return known


def _place_modules(contents: _Contents, base: Base, plan: Plan, allow: bool) -> dict[str, str]:
    known = _homes(base)
    untied = [module for module in contents.modules if tied_embedding(module, base.tensors) is None]
    rule = find_prefix(untied or list(contents.modules), known, f"'{show(plan.source.label)}'")
    homes, lost = {}, []
    for module in contents.modules:
        key = known.get(rule(module)) if module.startswith(rule.strip) else None
        if key is None:
            key = tied_embedding(module, base.tensors)
        if key is not None:
            alias = base.tensors[key].alias
            homes[module] = alias or key
        else:
            lost.append(module)
    if lost and not allow:
        raise unmatched(lost, known, f"the modules adapted by '{show(plan.source.label)}'")
    for module in lost:
        for key in contents.modules[module].values():
            plan.skip(key, "matches nothing in the base")
    if rule.strip or rule.add:
        plan.notes.append(f"the adapter's names match the base {rule}")
    return homes


def _place_replaced(contents: _Contents, base: Base, plan: Plan, config: AdapterConfig, allow: bool) -> dict[str, str]:
    """Match tensors stored in full: `modules_to_save`, resized embeddings, trained biases."""
    if not contents.replaced:
        return {}
    rule = find_prefix(list(contents.replaced), base.tensors, f"'{show(plan.source.label)}'")
    homes, lost = {}, []
    heads = {*config.saved_modules, *(HEADS if config.task_type else ())}
    for name, key in contents.replaced.items():
        home = rule(name)
        info = plan.source.header.tensors[key]
        if len(info.shape) < 2:
            plan.skip(key, "a vector or scalar: it has no singular vectors")
        elif home in base.tensors and info.dtype in FLOATS:
            homes[base.tensors[home].alias or home] = key
        elif heads & set(name.split(".")):
            plan.skip(key, "a new module: the base has no such weight")
        else:
            lost.append(name)
    if lost and not allow:
        raise unmatched(lost, base.tensors, f"the tensors of '{show(plan.source.label)}'")
    for name in lost:
        plan.skip(contents.replaced[name], "matches nothing in the base")
    return homes


def _refuse_both(adapted: Iterable[str], replaced: Iterable[str]) -> None:
    both = set(adapted) & set(replaced)
    if both:
        raise UnsupportedError(f"{listing(sorted(both), 3)}: stored in full and adapted by factors at once.")


def _replacement(base: Base, key: str, source: TensorSource, tuned_key: str) -> Callable[[], WeightPair]:
    return lambda: replaced_pair(base, key, source, tuned_key)


def _plan_module(
    key: str,
    modules: list[str],
    contents: _Contents,
    base: Base,
    plan: Plan,
    family: Family,
    config: AdapterConfig,
) -> None:
    reason = base.reason_against(key)
    if reason is not None:
        raise UnsupportedError(f"'{show(key)}' is adapted, but in the base it is {reason}.")
    tensors = plan.source.header.tensors
    layouts, notes = [], []
    for module in modules:
        parts = contents.modules[module]
        shapes = {part: tensors[name].shape for part, name in parts.items()}
        fit = family.fits(shapes)
        if fit is None:
            raise MatchError(f"'{show(module)}': one of its factors is missing ({listing(parts)} is there).")
        if _is_grouped(base.tensors[key].shape, fit):
            for name in parts.values():
                plan.skip(name, f"a grouped convolution: its kernel {list(fit)} does not fit the base")
            return
        layouts.append(_orient(key, base, fit, config))
        stored, declared = family.rank(shapes), config.rank_of(module)
        if stored != declared:
            notes.append(f"stored rank {stored}, but the configuration says {declared}; the scaling uses that")
    if len(modules) > 1:
        notes.append(f"tied weight adapted as {listing(modules)}: what merging makes of it")
    reader = _Reader(key, tuple(modules), contents, base, plan.source, family, config, layouts[0], tuple(notes))
    plan.add(Planned(key, reader.build))


def _is_grouped(stored: tuple[int, ...], fit: tuple[int, int]) -> bool:
    if len(stored) < 3:
        return False
    width = Layout("kernel", stored).shape[1]
    return fit[0] == stored[0] and fit[1] > width and fit[1] % width == 0


def _orient(key: str, base: Base, fit: tuple[int, int], config: AdapterConfig) -> Layout:
    """Return the base weight's layout; where the architecture is unknown, the factors' shape decides."""
    layout = base.layout(key)
    stored = layout.stored_shape
    if base.knows_architecture or len(stored) != 2 or layout.kind == "transposed":
        return layout
    square = stored[0] == stored[1]
    if (square and config.fan_in_fan_out) or (not square and stored == fit[::-1]):
        return Layout("transposed", stored)
    return layout


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads one planned pair when its turn comes."""

    key: str
    modules: tuple[str, ...]
    contents: _Contents
    base: Base
    source: TensorSource
    family: Family
    config: AdapterConfig
    layout: Layout
    notes: tuple[str, ...]

    def build(self) -> WeightPair:
        W0 = self.base.matrix(self.key, self.layout)
        names = [self.contents.modules[module] for module in self.modules]
        infos = [self.source.header.tensors[name] for parts in names for name in parts.values()]
        updates = [self._update(module, W0) for module in self.modules]
        update = updates[0] if len(updates) == 1 else _merged(updates)
        rows, note = common_rows(self.key, self.layout.shape, update.shape, "B @ A of the adapter")
        layout, notes = self.layout, self.notes
        if note is not None:
            notes = (*notes, note)
            W0, update = W0[:rows], _cut(update, rows)
            layout = Layout(layout.kind, (rows, *layout.stored_shape[1:]))
        return WeightPair(
            key=self.key,
            base=W0,
            update=update,
            layout=layout,
            base_storage=storage_of(self.base.tensors[self.key]),
            update_storage=storage_of(*infos),
            allotted=self._allotted(),
            notes=notes,
        )

    def _update(self, module: str, W0: torch.Tensor) -> Update:
        parts = {part: self.source.tensor(key) for part, key in self.contents.modules[module].items()}
        return self.family.update(Target(module, parts, lambda: W0), self.config)

    def _allotted(self) -> int:
        shapes = self.contents.modules[self.modules[0]]
        return self.family.rank({part: self.source.header.tensors[key].shape for part, key in shapes.items()})


def _merged(updates: list[Update]) -> Update:
    """Combine the updates of modules that share one stored weight, as merging them does."""
    factors = [update.factors for update in updates]
    first = updates[0].dense()
    if all(torch.equal(first, update.dense()) for update in updates[1:]):
        return updates[0]
    if any(pair is None for pair in factors):
        raise UnsupportedError("two DoRA updates of one tied weight are not read.")
    known = [pair for pair in factors if pair is not None]
    return LowRank(torch.cat([B for B, _ in known], dim=1), torch.cat([A for _, A in known]))


def _cut(update: Update, rows: int) -> Update:
    if update.factors is None:
        raise UnsupportedError("an update without factors on a grown vocabulary is not read.")
    B, A = update.factors
    return LowRank(B[:rows], A)


def _info(source: TensorSource, family: Family, config: AdapterConfig, contents: _Contents) -> TunedInfo:
    tensors = source.header.tensors
    shapes = [{part: tensors[key].shape for part, key in parts.items()} for parts in contents.modules.values()]
    every = {part for parts in contents.modules.values() for part in parts}
    return TunedInfo(
        label=source.label,
        method=family.label(config, dict.fromkeys(every)),
        parameters=source.header.parameters,
        bytes=source.header.bytes,
        ranks=tuple(sorted({family.rank(parts) for parts in shapes if family.fits(parts)})),
        alphas=tuple(sorted({config.alpha_of(module) for module in contents.modules})),
        scalings=tuple(sorted({config.scaling_of(module) for module in contents.modules})),
        targets=tuple(sorted({module.rpartition(".")[2] for module in contents.modules})),
        base_named=config.base_model,
    )
