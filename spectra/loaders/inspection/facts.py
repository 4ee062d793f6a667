"""What a configuration says beyond rank and alpha, in short sentences a person can act on. Torch-free."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from spectra.loaders.inspection.declared import Evidence, plain
from spectra.loaders.methods import BARE_PROMPT, FROZEN, FULL, Fate
from spectra.text import count, listing, show

_FLAGS = {
    "fan_in_fan_out": "fan_in_fan_out: the adapted weights are stored [in, out], as GPT-2's Conv1D",
    "use_dora": "use_dora: the weight is W0 + s B A with every row rescaled to a learned length",
    "use_rslora": "use_rslora: scaled by alpha / sqrt(r)",
    "lora_bias": "lora_bias: lora_B has a bias of its own",
    "alora_invocation_tokens": "activated LoRA: dW acts only after its invocation tokens",
}
_TRAINING = {
    "ss_network_module": "network module",
    "ss_network_dim": "network dim",
    "ss_network_alpha": "network alpha",
    "ss_base_model_version": "base version",
}
_GGUF = ("general.architecture", "general.name", "general.size_label", "adapter.type")


def facts(evidence: Evidence) -> list[str]:
    """Return the facts worth a line, in the order: task, options, what is stored beside the factors."""
    adapter = evidence.declared.adapter or {}
    sources = (
        _task(adapter),
        _options(adapter),
        _ranks(evidence),
        _dialect(evidence),
        _prompts(evidence),
        _stored(evidence),
        _model(evidence),
    )
    return [fact for source in sources for fact in source]


def _task(adapter: Mapping[str, Any]) -> Iterator[str]:
    task, version = adapter.get("task_type"), adapter.get("peft_version")
    words = [f"task {show(task)}"] if isinstance(task, str) else []
    words += [f"written by PEFT {show(version)}"] if isinstance(version, str) else []
    if words:
        yield ", ".join(words)
    if "peft_type" in adapter and not adapter.get("base_model_name_or_path"):
        yield "the configuration names no base model"


def _options(adapter: Mapping[str, Any]) -> Iterator[str]:
    yield from (meaning for flag, meaning in _FLAGS.items() if adapter.get(flag))
    bias = adapter.get("bias")
    if isinstance(bias, str) and bias != "none":
        yield f"bias {show(bias)}: biases were trained too"
    saved = adapter.get("modules_to_save")
    if isinstance(saved, list) and saved:
        yield f"modules_to_save: {listing(dict.fromkeys(map(str, saved)))}"
    for name in ("rank_pattern", "alpha_pattern"):
        pattern = adapter.get(name)
        if isinstance(pattern, dict) and pattern:
            yield f"{name}: {count(len(pattern), 'entry', 'entries')} ({listing(pattern, 3)})"
    for name in ("layers_to_transform", "layer_replication", "target_parameters", "exclude_modules"):
        if adapter.get(name) not in (None, [], ""):
            yield f"{name}: {show(adapter[name])}"
    for name in ("init_lora_weights", "target_modules"):
        if isinstance(adapter.get(name), str):
            yield f"{name}: {show(adapter[name])}"


def _ranks(evidence: Evidence) -> Iterator[str]:
    """Yield what the configuration says of ranks where that is not what it seems."""
    adapter, kind = evidence.declared.adapter or {}, evidence.declared.peft_type
    groups = adapter.get("enable_lora")
    if isinstance(groups, list):
        yield f"enable_lora {show(groups)}: A holds {sum(map(bool, groups))} groups of rank {show(adapter.get('r'))}"
    if kind == "ADALORA":
        yield f"AdaLoRA from init_r {show(adapter.get('init_r'))} to target_r {show(adapter.get('target_r'))}"
        yield f"r is {show(adapter.get('r'))} in the configuration: AdaLoRA does not use it"
    elif not evidence.ranks and isinstance(adapter.get("r"), int):
        yield f"r is {adapter['r']} in the configuration"


def _dialect(evidence: Evidence) -> Iterator[str]:
    metadata, method, adapter = evidence.declared.metadata, evidence.method, evidence.declared.adapter or {}
    told = [f"{name} {show(metadata[key], 60)}" for key, name in _TRAINING.items() if metadata.get(key)]
    if told:
        yield f"its trainer wrote: {', '.join(told)}"
    header = [f"{key.rpartition('.')[2]} {show(metadata[key], 60)}" for key in _GGUF if key in metadata]
    if header:
        yield ", ".join(header)
    if method.kin == "hub":
        yield from _hub(adapter)
    if method.kin == "mlx" and isinstance(adapter.get("num_layers"), int):
        yield f"the last {count(adapter['num_layers'], 'layer')} of the model were trained"
    if method.kin == "cloneofsimo":
        parts = Counter(name.partition(":")[0] for name in evidence.contents.modules)
        numbers = ", ".join(f"{show(part)} {number}" for part, number in parts.items())
        yield f"modules are numbered ({numbers}): only the architecture's order gives their names"
    widths = sorted(set(evidence.ranks.values())) if method.fate is Fate.NONE else []
    if widths:
        yield f"bottleneck width {listing(widths)}"


def _hub(adapter: Mapping[str, Any]) -> Iterator[str]:
    config = adapter.get("config")
    if isinstance(config, dict):
        yield f"adapter name {show(adapter.get('name'))}"
        known = ("architecture", "reduction_factor", "non_linearity", "composition_mode", "attn_matrices")
        yield ", ".join(f"{name} {show(config[name])}" for name in known if config.get(name) is not None)


def _prompts(evidence: Evidence) -> Iterator[str]:
    for name, info in evidence.header.tensors.items():
        if name in ("", "prompt_embeddings") and len(info.shape) == 2:
            yield f"{count(info.shape[0], 'virtual token')} of width {info.shape[1]}"
        elif evidence.method.kin == "inversion" and info.shape:
            yield f"token '{show(name)}', {count(info.parameters // info.shape[-1], 'vector')} of {info.shape[-1]}"


def _stored(evidence: Evidence) -> Iterator[str]:
    if evidence.method in (FULL, BARE_PROMPT):
        return
    rest = [name for name in evidence.contents.rest if not FROZEN.search(name)]
    frozen = len(evidence.contents.rest) - len(rest)
    if rest:
        tensors = evidence.header.tensors
        matrices = sum(len(tensors[name].shape) > 1 for name in rest)
        held = f"{count(len(rest), 'tensor')} ({count(matrices, 'matrix', 'matrices')})"
        yield f"stored in full: {held}: {listing(map(plain, rest), 4)}"
    if frozen:
        yield f"frozen copies of base weights, not part of the update: {count(frozen, 'tensor')}"
    named = sorted(name for name in evidence.contents.adapters if name is not None)
    if named:
        yield f"adapter name inside the tensor names: {listing(named)}"


def _model(evidence: Evidence) -> Iterator[str]:
    if evidence.method is not FULL:
        return
    tensors, config = evidence.header.tensors, evidence.declared.model
    matrices = [info for info in tensors.values() if len(info.shape) > 1]
    own = [info for info in matrices if info.alias is None]
    others = count(len(tensors) - len(matrices), "vector or scalar", "vectors and scalars")
    yield f"{count(len(own), 'matrix', 'matrices')}, {others}"
    names = config.get("architectures")
    words = [show(names[0])] if isinstance(names, list) and names else []
    words += [f"model_type {show(config['model_type'])}"] if config.get("model_type") else []
    if words:
        yield ", ".join(words)
    if config.get("tie_word_embeddings") is True:
        yield "tie_word_embeddings: the output head shares the input embedding's weight"
    tied = [f"'{show(key)}' is '{show(info.alias)}'" for key, info in tensors.items() if info.alias is not None]
    if tied:
        more = f" and {len(tied) - 3} more" if len(tied) > 3 else ""
        yield f"tied, stored once: {', '.join(tied[:3])}{more}"
