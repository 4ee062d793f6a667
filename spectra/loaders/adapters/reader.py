"""Read the pair of an adapted weight when its turn comes; every fault of shapes is found when it is planned."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from spectra.errors import MatchError, UnsupportedError
from spectra.layout import Layout
from spectra.loaders.adapters.adapter import Adapter
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.contents import Module, shapes_of
from spectra.loaders.adapters.family import Shapes, Target
from spectra.loaders.adapters.orienting import orient
from spectra.loaders.adapters.placing import Places
from spectra.loaders.base import Base, common_rows, share_of
from spectra.loaders.matching import plain
from spectra.loaders.plan import Plan, Planned
from spectra.loaders.replication import layers_of
from spectra.loaders.source import TensorSource
from spectra.loaders.traversal import in_order
from spectra.text import listing, show
from spectra.updates import Dense, LowRank, Storage, Sum, Update, WeightPair, nothing


@dataclass(frozen=True, slots=True)
class _Reader:
    key: str
    index: int | None
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
        W0, remarks = self.base.matrix(self.key, self.layout, index=self.index), list[str]()
        updates = [self._update(module, W0, remarks) for module in self.modules]
        # No module: an expert that is not adapted while others of its stack are.
        update = updates[0] if len(updates) == 1 else merged(updates) if updates else nothing(self.layout.shape, W0)
        whole = self.rows == self.layout.shape[0] == update.shape[0]
        return WeightPair(
            key=self.key,
            base=W0 if whole else W0[: self.rows],
            update=update if whole else _cut(update, self.rows),
            layout=self.layout if whole else self.layout.cut(self.rows),
            base_storage=self.base.storage(self.key),
            update_storage=self._storage(),
            index=self.index,
            name=self.base.name(self.key, self.index),
            allotted=self._allotted(update),
            scaling=self._scaling(),
            notes=(*self.notes, *dict.fromkeys(remarks)),
        )

    def _update(self, module: Module, W0: torch.Tensor, remarks: list[str]) -> Update:
        tensors = self.source.tensor
        target = Target(
            module=module.configured,
            parts={part: tensors(key) for part, key in module.parts.items()},
            config=self.adapter.config,
            base=lambda: W0,
            layout=self.layout,
            shared=lambda name: tensors(self._shared(name)),
            modules=self._every_module,
            walk=self._walk,
            dtype=getattr(torch, self.base.tensors[self.key].read_as),
            bias=self._bias,
            remarks=remarks,
        )
        before = self.adapter.initial
        if before is not None:
            parts = before.contents.modules[module.name].parts
            stored = {part: before.source.tensor(key) for part, key in parts.items()}
            target = replace(target, initial=replace(target, parts=stored, config=before.config))
        update = module.family.update(target)
        return replace(update, stored=False) if isinstance(update, Dense) else update

    def _shared(self, name: str) -> str:
        key = self.adapter.contents.shared.get(name)
        if key is None:
            raise MatchError(f"'{show(self.source.label)}' has no {name}, which every one of its updates needs.")
        return key

    def _every_module(self) -> dict[str, tuple[int, int]]:
        every = [(key, module) for key in self.base.tensors for module in self.places.adapted.get(key, ())]
        if len(every) < len(self.adapter.contents.modules):
            raise MatchError(
                f"'{show(self.source.label)}': what each of its modules has depends on all of them, and some match "
                "nothing in the base. Give the base it was trained on."
            )
        config = self.adapter.config
        return {module.configured: orient(key, self.base, None, config).shape for key, module in every}

    def _bias(self) -> torch.Tensor | None:
        key = self.key.removesuffix("weight") + "bias"
        return self.base.source.tensor(key).float() if key in self.base.tensors else None

    def _walk(self) -> list[str] | None:
        """Return every adapted module in the order of the model's own code, None where that is not known."""
        names = {self._module_at(key): modules for key, modules in self.places.adapted.items()}
        walked = [self._module_at(key) for key in self.base.tensors] if self.base.is_live else None
        order = in_order(names, self.base.source.config, walked)
        return order and [module.configured for name in order for module in names[name]]

    def _module_at(self, key: str) -> str:
        return plain(self.base.name(key)).removesuffix(".weight")

    def _storage(self) -> Storage:
        tensors = self.source.header.tensors
        own = [(key, module.share) for module in self.modules for key in module.parts.values()]
        shares = own or [(key, 1) for key in self.adapter.contents.shared.values()]
        if not self.modules:
            return Storage(next(iter(tensors.values())).dtype, 0, 0)
        stored = [share_of(tensors[key], share) for key, share in shares]
        return Storage(stored[0].dtype, sum(one.parameters for one in stored), sum(one.bytes for one in stored))

    def _allotted(self, update: Update) -> int | None:
        factors = update.factors if isinstance(update, LowRank | Sum) else None
        if factors is not None:
            return factors[0].shape[1]
        first = self.modules[0]
        return first.family.rank(shapes_of(first, self.source), self.adapter.config)

    def _scaling(self) -> float | None:
        """Return what the one module of this matrix scales the product of its factors by, None for any other case."""
        if len(self.modules) != 1 or not self.modules[0].family.scaled:
            return None
        (module,), config = self.modules, self.adapter.config
        return config.scaling_of(module.configured, module.family.rank(shapes_of(module, self.source), config))


def plan_adapted(key: str, places: Places, base: Base, plan: Plan, adapter: Adapter) -> None:
    """Plan the pair of one adapted weight, in a stack of experts a pair each, or skip it as a grouped convolution.

    Raises MatchError when a factor is missing or shapes disagree, UnsupportedError where the family
    does not read this kind of weight.
    """
    reason = base.reason_against(key)
    if reason is not None:
        raise UnsupportedError(f"'{show(key)}' is adapted, but in the base it is {reason}.")
    modules, stack = places.adapted[key], base.stack(key)
    if stack is not None and any(module.index is None for module in modules):
        raise UnsupportedError(
            f"'{show(key)}' holds {stack.count} experts in one tensor, and the adapter has one update for them all "
            f"({_names(modules)}), which is not read. Is this the base it was trained on?"
        )
    for index in base.indices(key):
        own = [module for module in modules if module.index == index]
        _plan_matrix(key, index, own, places, base, plan, adapter)


def _plan_matrix(
    key: str, index: int | None, modules: list[Module], places: Places, base: Base, plan: Plan, adapter: Adapter
) -> None:
    config = adapter.config
    shapes = [shapes_of(module, adapter.source) for module in modules]
    fits = [module.family.fits(module.name, parts, config) for module, parts in zip(modules, shapes, strict=True)]
    known = [(fit[0], fit[1]) for fit in fits if fit is not None and fit[0] is not None and fit[1] is not None]
    if any(_is_grouped(base.layout(key).stored_shape, fit) for fit in known):
        for name in (name for module in modules for name in module.parts.values()):
            plan.skip(name, f"a grouped convolution: its kernel {list(known[0])} does not fit the base")
        return
    stack, layout = base.stack(key), orient(key, base, known[0] if known else None, config)
    notes = [stack.note] if stack and stack.note else []
    copied = layers_of(base).get(key, key)
    notes += [f"layer_replication: its base weight is '{show(copied)}'"] if copied != key else []
    rows = layout.shape[0]
    for module, parts, fit in zip(modules, shapes, fits, strict=True):
        if fit is not None:
            whole = (fit[0] or layout.shape[0], fit[1] or layout.shape[1])
            rows, note = common_rows(base.name(key), layout.shape, whole, "the update of the adapter")
            if note is not None and module.family.needs_base(parts, config):
                label = module.family.label(config, parts)
                raise UnsupportedError(f"'{show(module.name)}': {label} on a resized vocabulary.")
            notes += [note] if note else []
        notes += _doubts(module, parts, config)
    plan.notes.extend(note for note in notes if note not in plan.notes)
    if len(set(fits)) > 1:
        raise MatchError(f"'{show(key)}' is adapted as {_names(modules)}, of unequal shapes.")
    if len(modules) == 1 and base.tied_to(modules[0].name) == key:
        notes.append(f"adapted as '{show(modules[0].name)}', which shares this weight: what merging makes of it")
    if len(modules) > 1:
        notes.append(f"tied weight adapted as {_names(modules)}: what merging makes of it")
    reader = _Reader(key, index, tuple(modules), base, adapter, places, layout, rows, tuple(dict.fromkeys(notes)))
    plan.add(Planned(key, reader.build, index))


def _names(modules: Sequence[Module]) -> str:
    return listing(module.name for module in modules)


def _doubts(module: Module, parts: Shapes, config: AdapterConfig) -> list[str]:
    """Say what the files leave open about a module, and what was taken."""
    notes = module.family.doubts(module.configured, parts, config)
    if module.name.startswith(module.configured + "."):
        notes.append("inside nn.MultiheadAttention, where PEFT up to 0.21.2 adds this update twice: counted once here")
    return notes


def _is_grouped(stored: tuple[int, ...], fit: tuple[int, int]) -> bool:
    if len(stored) < 3:
        return False
    width = Layout("kernel", stored).shape[1]
    return fit[0] == stored[0] and fit[1] > width and fit[1] % width == 0


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
    if isinstance(update, Sum):
        return Sum(tuple(_cut(part, rows) for part in update.parts))
    if not isinstance(update, LowRank):
        return update
    return LowRank(update.B[:rows], update.A)
