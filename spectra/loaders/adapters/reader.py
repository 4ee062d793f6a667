"""Read the pair of an adapted weight when its turn comes; every fault of shapes is found when it is planned."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from spectra.errors import MatchError, UnsupportedError
from spectra.layout import Layout
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.contents import Module
from spectra.loaders.adapters.family import Family, Target
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
    source: TensorSource
    family: Family
    config: AdapterConfig
    layout: Layout
    rows: int
    notes: tuple[str, ...]

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
            allotted=update.B.shape[1] if isinstance(update, LowRank) else self.family.rank(self._shapes(0)),
            notes=self.notes,
        )

    def _update(self, module: Module, W0: torch.Tensor) -> Update:
        parts = {part: self.source.tensor(key) for part, key in module.parts.items()}
        return self.family.update(Target(module.configured, parts, lambda: W0), self.config)

    def _shapes(self, index: int) -> dict[str, tuple[int, ...]]:
        return {part: self.source.header.tensors[key].shape for part, key in self.modules[index].parts.items()}


def plan_adapted(
    key: str, modules: Sequence[Module], base: Base, plan: Plan, family: Family, config: AdapterConfig
) -> None:
    """Plan the pair of one adapted weight, or skip it as a grouped convolution.

    Raises MatchError when a factor is missing or shapes disagree, UnsupportedError where the family
    does not read this kind of weight.
    """
    reason = base.reason_against(key)
    if reason is not None:
        raise UnsupportedError(f"'{show(key)}' is adapted, but in the base it is {reason}.")
    shapes = [
        {part: plan.source.header.tensors[name].shape for part, name in module.parts.items()} for module in modules
    ]
    fits = [family.fits(module.name, parts, config) for module, parts in zip(modules, shapes, strict=True)]
    if any(_is_grouped(base.tensors[key].shape, fit) for fit in fits):
        for name in (name for module in modules for name in module.parts.values()):
            plan.skip(name, f"a grouped convolution: its kernel {list(fits[0])} does not fit the base")
        return
    layout, notes = _orient(key, base, fits[0], config), []
    for module, parts, fit in zip(modules, shapes, fits, strict=True):
        rows, note = common_rows(key, layout.shape, fit, "B @ A of the adapter")
        if note is not None and family.needs_base(parts):
            raise UnsupportedError(f"'{show(module.name)}': {family.label(config, parts)} on a resized vocabulary.")
        notes += [note] if note else []
        notes += _doubts(module, family.rank(parts), config)
    plan.notes.extend(note for note in notes if note not in plan.notes)
    if len(set(fits)) > 1:
        raise MatchError(f"'{show(key)}' is adapted as {_names(modules)}, of unequal shapes.")
    if len(modules) > 1:
        notes.append(f"tied weight adapted as {_names(modules)}: what merging makes of it")
    reader = _Reader(key, tuple(modules), base, plan.source, family, config, layout, rows, tuple(dict.fromkeys(notes)))
    plan.add(Planned(key, reader.build))


def _names(modules: Sequence[Module]) -> str:
    return listing(module.name for module in modules)


def _doubts(module: Module, stored: int, config: AdapterConfig) -> list[str]:
    """Say what file and configuration leave open about the scaling, and what was taken."""
    declared, alphas = config.rank_of(module.configured, stored), config.alphas_of(module.configured)
    notes = []
    if stored != declared:
        notes.append(f"stored rank {stored}, but the configuration says {declared}; the scaling uses that")
    if len(set(alphas)) > 1:
        notes.append(f"several alpha_patterns match and PEFT does not save their order: alpha {alphas[0]:g} is taken")
    if module.name != module.configured:
        notes.append("inside nn.MultiheadAttention, where PEFT up to 0.21.2 adds this update twice: counted once here")
    return notes


def _is_grouped(stored: tuple[int, ...], fit: tuple[int, int]) -> bool:
    if len(stored) < 3:
        return False
    width = Layout("kernel", stored).shape[1]
    return fit[0] == stored[0] and fit[1] > width and fit[1] % width == 0


def _orient(key: str, base: Base, fit: tuple[int, int], config: AdapterConfig) -> Layout:
    """Return the base weight's layout; where the architecture is unknown, the factors' shape decides."""
    layout = base.layout(key)
    stored = layout.stored_shape
    if base.knows_architecture or len(stored) != 2 or layout.kind == "transposed" or is_vocabulary(key):
        return layout
    square = stored[0] == stored[1]
    if (square and config.fan_in_fan_out) or (not square and stored == fit[::-1]):
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
        raise UnsupportedError("two different DoRA updates of one tied weight are not read.")
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
