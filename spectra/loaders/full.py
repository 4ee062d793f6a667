"""Plan the pairs of a full fine-tune: the same names on both sides, a prefix apart at most."""

from collections.abc import Mapping

from spectra.errors import MatchError
from spectra.loaders.base import HEADS, Base, refuse_packed, replaced_pair
from spectra.loaders.header import TensorInfo
from spectra.loaders.matching import find_prefix, unmatched
from spectra.loaders.plan import Plan, Planned, TunedInfo
from spectra.loaders.source import Model, open_source
from spectra.text import show

ADAPTER_MARKS = (".lora_A.", ".lora_B.", ".lora_down.", ".lora_up.", "lora_embedding_A", ".hada_w1", ".lokr_w1")


def plan_full(model: Model, base: Base) -> Plan:
    """Match a full checkpoint to its base. Everything left out is in `skipped` with its reason."""
    tuned = open_source(model)
    refuse_packed(tuned, "tuned checkpoint")
    names = tuned.header.tensors
    _refuse_adapter(names, tuned.label)
    plan = Plan(_info(tuned.label, names), tuned)
    analysable = [key for key in base.tensors if base.reason_against(key) is None]
    matrices = [key for key, info in names.items() if len(info.shape) >= 2]
    rule = find_prefix(matrices, analysable, f"'{show(tuned.label)}'")
    placed = {rule(key): key for key in names if key.startswith(rule.strip)}
    if not any(key in placed for key in analysable):
        raise unmatched(matrices, analysable, f"the matrices of '{show(tuned.label)}'")
    if rule.strip or rule.add:
        plan.notes.append(f"the tuned names match the base {rule}")
    for key in base.tensors:
        _place(key, placed.get(key), base, plan)
    for key in names:
        if rule(key) not in base.tensors or not key.startswith(rule.strip):
            alias = names[key].alias
            plan.skip(key, f"tied: it shares its storage with '{show(alias)}'" if alias else "not in the base")
    return plan


def _place(key: str, tuned_key: str | None, base: Base, plan: Plan) -> None:
    reason = base.reason_against(key)
    if reason is None and tuned_key is None:
        reason = "not in the tuned checkpoint"
    if reason is None and tuned_key is not None:
        reason = _head_of_other_size(key, tuned_key, base, plan)
    if reason is not None or tuned_key is None:
        plan.skip(key, reason or "not in the tuned checkpoint")
        return
    shapes = base.tensors[key].shape, plan.source.header.tensors[tuned_key].shape
    if len(shapes[0]) != len(shapes[1]):
        raise MatchError(f"'{show(key)}': the base is {list(shapes[0])} and the tuned weight {list(shapes[1])}.")
    source = plan.source
    plan.add(Planned(key, lambda: replaced_pair(base, key, source, tuned_key)))


def _head_of_other_size(key: str, tuned_key: str, base: Base, plan: Plan) -> str | None:
    before, after = base.tensors[key].shape, plan.source.header.tensors[tuned_key].shape
    if before != after and any(part in HEADS for part in key.split(".")):
        return f"a head of another size: {list(before)} in the base, {list(after)} tuned"
    return None


def _refuse_adapter(names: Mapping[str, TensorInfo], label: str) -> None:
    marked = next((key for key in names if any(mark in key for mark in ADAPTER_MARKS)), None)
    if marked:
        raise MatchError(
            f"'{show(label)}' holds adapter tensors such as '{show(marked)}' but no adapter_config.json, which "
            "gives alpha and r. Give the folder that PEFT's save_pretrained wrote."
        )


def _info(label: str, names: Mapping[str, TensorInfo]) -> TunedInfo:
    own = [info for info in names.values() if info.alias is None]
    return TunedInfo(
        label=label,
        method="full fine-tuning",
        parameters=sum(info.parameters for info in own),
        bytes=sum(info.bytes for info in own),
    )
