"""Plan the pairs of a full fine-tune: the same names on both sides, a prefix apart at most."""

from collections.abc import Mapping

from spectra.errors import MatchError, UnsupportedError
from spectra.loaders.base import Base, head_of_other_size, plan_replaced
from spectra.loaders.disagreements import Disagreements
from spectra.loaders.gguf_names import naming_of, require_comparable
from spectra.loaders.header import FLOATS, TensorInfo
from spectra.loaders.lineage import doubts
from spectra.loaders.matching import find_prefix, plain
from spectra.loaders.methods import FULL, Fate, recognise
from spectra.loaders.plan import Plan, TunedInfo
from spectra.loaders.quantization.unpack import unpacked
from spectra.loaders.restacked import restacked
from spectra.loaders.source import TensorSource
from spectra.text import listing, show


def plan_full(source: TensorSource, base: Base) -> Plan:
    """Match a full checkpoint, opened, to its base. Everything left out is in `skipped` with its reason.

    Raises UnsupportedError, naming the method, when the file holds an adapter; MatchError, with
    all of it at once, when nothing matches or shapes disagree.
    """
    tuned = unpacked(source, "tuned checkpoint")
    names = tuned.header.tensors
    plan = Plan(_info(tuned.label, names), tuned)
    found = _found(plan, base)
    placed, stacks = _place(found, base), _stacks(found, base)
    used = {*placed.values(), *(name for experts in stacks.values() for name in experts)}
    faults = Disagreements(tuned.label, base.source.label)
    strange = {key: info for key, info in names.items() if key not in used}
    _refuse_adapter(strange, tuned.label)
    if not any(base.reason_against(key) is None for key in (*placed, *stacks)):
        same = next((key for key in base.tensors if key in names and len(base.tensors[key].shape) > 1), None)
        if same is not None:
            raise MatchError(f"'{show(same)}' of the base cannot be analysed: {base.reason_against(same)}.")
        if not _matrices(names):
            raise MatchError(f"'{show(tuned.label)}' holds no matrix to compare.")
        faults.add_unmatched(_matrices(names), _analysable(base), skippable=False)
    for key in base.tensors:
        with faults.collected():
            if key in stacks and base.reason_against(key) is None:
                _plan_stack(key, stacks[key], base, plan)
            else:
                _plan_key(key, placed, base, plan)
    faults.raise_any()
    for key, info in strange.items():
        plan.skip(key, _why_strange(key, info, base))
    plan.notes.extend(doubts(base.source, tuned))
    return plan


def _found(plan: Plan, base: Base) -> dict[str, str]:
    """Return the tuned key of every tensor by the name that it has in the base's spelling."""
    names, theirs = plan.source.header.tensors, naming_of(plan.source.header)
    require_comparable(base.naming, theirs)
    spelled = {key: plain(theirs.name(key)) for key in names}
    matrices = [spelled[key] for key in _matrices(names)]
    analysable = [plain(base.name(key, index)) for key in _analysable(base) for index in base.indices(key)]
    rule = find_prefix(matrices, analysable, f"'{show(plan.source.label)}'")
    if rule.strip or rule.add:
        plan.notes.append(f"the tuned names match the base {rule}")
    return {rule(name): key for key, name in spelled.items() if name.startswith(rule.strip)}


def _place(found: Mapping[str, str], base: Base) -> dict[str, str]:
    """Return the tuned key of every base key that the tuned side has."""
    homes = {plain(base.name(key)): key for key in base.tensors}
    placed = {homes[name]: key for name, key in found.items() if name in homes}
    for key, info in base.tensors.items():
        if info.alias is not None and info.alias not in placed and key in placed:
            placed[info.alias] = placed.pop(key)  # the tuned side keeps a shared weight under another of its names
    return placed


def _stacks(found: Mapping[str, str], base: Base) -> dict[str, tuple[str, ...]]:
    """Return the tuned keys of the experts that are a stack in the base and tensors of their own on the tuned side."""
    stacks = {}
    for key in base.tensors:
        apart = base.stack(key) is not None and "#" in base.name(key)
        names = [plain(base.name(key, index)) for index in base.indices(key)] if apart else []
        if names and all(name in found for name in names):
            stacks[key] = tuple(found[name] for name in names)
    return stacks


def _plan_stack(key: str, experts: tuple[str, ...], base: Base, plan: Plan) -> None:
    together = restacked(plan.source, key, experts)
    info = together.header.tensors[key]
    if info.read_as not in FLOATS:
        plan.skip(key, _no_float(info.dtype))
        return
    for planned in plan_replaced(base, key, together, key):
        plan.add(planned)


def _matrices(names: Mapping[str, TensorInfo]) -> list[str]:
    return [key for key, info in names.items() if len(info.shape) >= 2]


def _analysable(base: Base) -> list[str]:
    return [key for key in base.tensors if base.reason_against(key) is None]


def _plan_key(key: str, placed: Mapping[str, str], base: Base, plan: Plan) -> None:
    names, tuned_key, alias = plan.source.header.tensors, placed.get(key), base.tensors[key].alias
    if tuned_key is None:
        plan.skip(key, base.reason_against(key) or "not in the tuned checkpoint")
        return
    untied = alias in placed and names[tuned_key].alias is None  # in the base one storage, by now two
    reason = base.unfit(key) if untied else base.reason_against(key)
    reason = reason or head_of_other_size(key, base.tensors[key].shape, names[tuned_key].shape)
    if reason is None and names[tuned_key].read_as not in FLOATS:
        reason = _no_float(names[tuned_key].dtype)
    if reason is not None:
        plan.skip(key, reason)
        return
    for planned in plan_replaced(base, key, plan.source, tuned_key):
        plan.add(planned)


def _no_float(dtype: str) -> str:
    return f"stored as {dtype} in the tuned checkpoint: not a floating-point weight"


def _why_strange(key: str, info: TensorInfo, base: Base) -> str:
    if info.alias is not None:
        return f"tied: it shares its storage with '{show(info.alias)}'"
    tied = base.tied_to(plain(key).removesuffix(".weight"))
    return f"in the base it is tied to '{show(tied)}' and not stored" if tied else "not in the base"


def _refuse_adapter(strange: Mapping[str, TensorInfo], label: str) -> None:
    methods = recognise(strange).methods
    if not strange or methods == (FULL,):
        return
    example = next((key for key, info in strange.items() if len(info.shape) > 1), next(iter(strange)))
    remedy = "Merge it with its own library and diagnose the merged model as a full fine-tune."
    if any(method.fate is Fate.READ and method.kin == "peft" for method in methods):
        remedy = "Give the folder that PEFT's save_pretrained wrote: its adapter_config.json says alpha and r."
    elif any(method.fate is Fate.READ for method in methods):
        remedy = "Give its file or folder by its path."
    elif all(method.fate is Fate.NONE for method in methods):
        remedy = "It has no weight update to analyse; spectra.insertions measures prompts, prefixes and bottlenecks."
    raise UnsupportedError(
        f"'{show(label)}' is no full checkpoint: it holds {listing(method.name for method in methods)}, in tensors "
        f"such as '{show(example)}'. {remedy}"
    )


def _info(label: str, names: Mapping[str, TensorInfo]) -> TunedInfo:
    own = [info for info in names.values() if info.alias is None]
    return TunedInfo(
        label=label,
        method="full fine-tuning",
        parameters=sum(info.parameters for info in own),
        bytes=sum(info.bytes for info in own),
        whole=True,
    )
