"""Read the pair of an adapted weight when its turn comes; every fault of shapes is found when it is planned."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from spectra.errors import MatchError, UnsupportedError
from spectra.layout import Layout
from spectra.loaders.adapters.adapter import Adapter
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.contents import Module
from spectra.loaders.adapters.family import Shapes, Target
from spectra.loaders.adapters.placing import Places
from spectra.loaders.base import Base, common_rows, storage_of
from spectra.loaders.matching import is_vocabulary
from spectra.loaders.plan import Plan, Planned
from spectra.loaders.source import TensorSource
from spectra.text import listing, show
from spectra.updates import LowRank, Update, WeightPair


@dataclass(frozen=True, slots=True)
class _Reader:
    key: str
    modules: tuple[Module, ...]
    base: Base
    adapter: Adapter
    places: Places
    layout: Layout
    rows: int
    notes: tuple[str, ...]

    @property
    def source(self) -> TensorSource:
        return self.adapter.source

    def build(self) -> WeightPair:
        W0 = self.base.matrix(self.key, self.layout)
        updates = [self._update(module, W0) for module in self.modules]
        update = updates[0] if len(updates) == 1 else merged(updates)
        whole = self.rows == self.layout.shape[0] == update.shape[0]
        infos = [self.source.header.tensors[name] for module in self.modules for name in module.parts.values()]
        return WeightPair(
            key=self.key,
            base=W0 if whole else W0[: self.rows],
            update=update if whole else _cut(update, self.rows),
            layout=self.layout if whole else self.layout.cut(self.rows),
            base_storage=storage_of(self.base.tensors[self.key]),
            update_storage=storage_of(*infos),
            name=self.base.name(self.key),
            allotted=update.B.shape[1] if isinstance(update, LowRank) else self._allotted(),
            notes=self.notes,
        )

    def _update(self, module: Module, W0: torch.Tensor) -> Update:
        tensors = self.source.tensor
        return module.family.update(
            Target(
                module=module.configured,
                parts={part: tensors(key) for part, key in module.parts.items()},
                config=self.adapter.config,
                base=lambda: W0,
                layout=self.layout,
                shared=lambda name: tensors(self._shared(name)),
                modules=self._every_module,
            )
        )

    def _shared(self, name: str) -> str:
        key = self.adapter.contents.shared.get(name)
        if key is None:
            raise MatchError(f"'{show(self.source.label)}' has no {name}, which every one of its updates needs.")
        return key

    def _every_module(self) -> dict[str, tuple[int, int]]:
        every = [(key, module) for key in self.base.tensors for module in self.places.adapted.get(key, ())]
        return {module.configured: self.base.layout(key).shape for key, module in every}

    def _allotted(self) -> int | None:
        first = self.modules[0]
        return first.family.rank(shapes_of(first, self.source), self.adapter.config)


def shapes_of(module: Module, source: TensorSource) -> dict[str, tuple[int, ...]]:
    """Return the stored shape of every part of a module."""
    return {part: source.header.tensors[key].shape for part, key in module.parts.items()}


def plan_adapted(key: str, places: Places, base: Base, plan: Plan, adapter: Adapter) -> None:
    """Plan the pair of one adapted weight, or skip it as a grouped convolution.

    Raises MatchError when a factor is missing or shapes disagree, UnsupportedError where the family
    does not read this kind of weight.
    """
    reason = base.reason_against(key)
    if reason is not None:
        raise UnsupportedError(f"'{show(key)}' is adapted, but in the base it is {reason}.")
    modules, config = places.adapted[key], adapter.config
    shapes = [shapes_of(module, adapter.source) for module in modules]
    fits = [module.family.fits(module.name, parts, config) for module, parts in zip(modules, shapes, strict=True)]
    known = [fit for fit in fits if fit is not None]
    if any(_is_grouped(base.tensors[key].shape, fit) for fit in known):
        for name in (name for module in modules for name in module.parts.values()):
            plan.skip(name, f"a grouped convolution: its kernel {list(known[0])} does not fit the base")
        return
    layout, notes = _orient(key, base, known[0] if known else None, config), []
    rows = layout.shape[0]
    for module, parts, fit in zip(modules, shapes, fits, strict=True):
        if fit is not None:
            rows, note = common_rows(key, layout.shape, fit, "the update of the adapter")
            if note is not None and module.family.needs_base(parts, config):
                label = module.family.label(config, parts)
                raise UnsupportedError(f"'{show(module.name)}': {label} on a resized vocabulary.")
            notes += [note] if note else []
        notes += _doubts(module, parts, config)
    plan.notes.extend(note for note in notes if note not in plan.notes)
    if len(set(fits)) > 1:
        raise MatchError(f"'{show(key)}' is adapted as {_names(modules)}, of unequal shapes.")
    if len(modules) > 1:
        notes.append(f"tied weight adapted as {_names(modules)}: what merging makes of it")
    reader = _Reader(key, tuple(modules), base, adapter, places, layout, rows, tuple(dict.fromkeys(notes)))
    plan.add(Planned(key, reader.build))


def _names(modules: Sequence[Module]) -> str:
    return listing(module.name for module in modules)


def _doubts(module: Module, parts: Shapes, config: AdapterConfig) -> list[str]:
    """Say what the files leave open about a module, and what was taken."""
    notes = module.family.doubts(module.configured, parts, config)
    if module.name != module.configured:
        notes.append("inside nn.MultiheadAttention, where PEFT up to 0.21.2 adds this update twice: counted once here")
    return notes


def _is_grouped(stored: tuple[int, ...], fit: tuple[int, int]) -> bool:
    if len(stored) < 3:
        return False
    width = Layout("kernel", stored).shape[1]
    return fit[0] == stored[0] and fit[1] > width and fit[1] % width == 0


def _orient(key: str, base: Base, fit: tuple[int, int] | None, config: AdapterConfig) -> Layout:
    """Return the base weight's layout; where the architecture is unknown, the factors' shape decides."""
    layout = base.layout(key)
    stored = layout.stored_shape
    if base.knows_architecture or len(stored) != 2 or layout.kind == "transposed" or is_vocabulary(key):
        return layout
    undecided = stored[0] == stored[1] or fit is None
    if (undecided and config.fan_in_fan_out) or (not undecided and fit is not None and stored == fit[::-1]):
        return Layout("transposed", stored)
    return layout


def merged(updates: Sequence[Update]) -> Update:
    """Combine the updates of modules that share one stored weight as merging them does; equal ones count once."""
    factors = [update.factors for update in updates]
    known = [pair for pair in factors if pair is not None]
    if len(known) < len(updates):
        first = updates[0].dense()
        if all(torch.equal(first, update.dense()) for update in updates[1:]):
            return updates[0]
        raise UnsupportedError("two different updates of one tied weight that depend on it are not read.")
    B, A = known[0]
    if all(_equal(B, other_B) and _equal(A, other_A) for other_B, other_A in known[1:]):
        return updates[0]
    return LowRank(torch.cat([B for B, _ in known], dim=1), torch.cat([A for _, A in known]))


def _equal(left: torch.Tensor, right: torch.Tensor) -> bool:
    return left.shape == right.shape and torch.equal(left, right)


def _cut(update: Update, rows: int) -> Update:
    if not isinstance(update, LowRank):
        return update
    return LowRank(update.B[:rows], update.A)
