"""LoRA on parameters (PEFT's `target_parameters`): the experts of a layer, fused in one parameter of the model.

PEFT wraps the module once for each of its parameters that is targeted, in the order in which the module has them, so
that the factors of the first lie innermost (`experts.base_layer.lora_A`) and those of the last outermost. For E
experts of rank r, `lora_A` is `[E r, .]` expert by expert and `lora_B` `[., r E]` rank by rank. Which axis of the
parameter A acts on has changed: see `_acts_on_inputs`. Every expert is read as one ordinary LoRA module.

The model in memory and the files of its base may name experts differently: transformers 5 fuses on loading what
Mixtral, Qwen and others store expert by expert, gate beside up.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from spectra.errors import MatchError, UnsupportedError
from spectra.loaders.adapters.config import CONFIG_NAME, AdapterConfig
from spectra.loaders.adapters.contents import Contents, Module
from spectra.loaders.adapters.dialects.respelled import respelled
from spectra.loaders.adapters.families.lora import LORA
from spectra.loaders.adapters.family import Family
from spectra.loaders.base import Base
from spectra.loaders.matching import Prefix, find_prefix, plain
from spectra.loaders.source import TensorSource
from spectra.text import listing, numbered, show

# The order in which modules have their parameters; down comes after what feeds it in every architecture.
_ORDER = ("gate_up_proj", "gate_proj", "w1", "up_proj", "v1", "down_proj", "w2")
# Experts one by one in the files: the names of the parts of a fused parameter, from the first output down.
_FUSED = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3"), ("fc1", "fc3")),
    "up_proj": (("up_proj",),),
    "down_proj": (("down_proj",), ("w2",), ("fc2",)),
}
_ONE_BY_ONE = re.compile(r"^(?P<experts>.+\.experts)\.(?P<number>\d+)\.(?P<part>\w+)\.weight$")
# Stacks that have other names in the files than in transformers 5.
_RENAMED = (
    (".block_sparse_moe.input_linear.weight", ".block_sparse_moe.experts.gate_up_proj"),
    (".block_sparse_moe.output_linear.weight", ".block_sparse_moe.experts.down_proj"),
    (".experts.fc1.weight", ".experts.gate_up_proj"),
    (".experts.fc2.weight", ".experts.down_proj"),
)
# Architectures whose module of experts says `is_transposed` in transformers 5.
_FLAGGED = ("gpt_oss", "openai_privacy_filter", "aria", "aria_text")
# Stored [experts, in, out], turned by transformers 5 on loading.
_TURNED = ("qwen3_vl_moe", "qwen3_vl_moe_text")
_WRAPPER = ".base_layer"
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?")


@dataclass(frozen=True, slots=True)
class _Block:
    """Where some outputs of one expert lie in the base: the name a module has there, and how many they are."""

    name: str
    index: int | None
    rows: int


@dataclass(frozen=True, slots=True)
class _Parameter:
    """A parameter of the model in memory: `experts` matrices of shape `[out, in]`, one where it is a matrix.

    turned : whether it lies `[in, out]` in memory; blocks : for each expert, where its outputs lie in the base.
    """

    name: str
    shape: tuple[int, int]
    stacked: bool
    turned: bool
    blocks: tuple[tuple[_Block, ...], ...]

    @property
    def experts(self) -> int:
        return len(self.blocks)

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def last(self) -> str:
        return self.name.rpartition(".")[2]


@dataclass(frozen=True, slots=True)
class _Wrapped:
    """A parameter and the module that holds its factors; `sizes` are the input size of A and the output size of B."""

    parameter: _Parameter
    module: Module
    sizes: tuple[int, int]

    @property
    def told_by_shape(self) -> bool | None:
        """Whether A acts on the inputs, None for a square parameter."""
        out, inputs = self.parameter.shape
        return None if out == inputs else self.sizes == (inputs, out)


def unwrapped(contents: Contents, config: AdapterConfig, base: Base, source: TensorSource) -> Contents:
    """Return contents with one ordinary module an expert in place of every module of wrapped parameters.

    Raises MatchError where wrappers and parameters do not fit together, UnsupportedError where they fit in more ways
    than one.
    """
    targets = config.raw.get("target_parameters")
    if not targets:
        return contents
    parameters = {parameter.name: parameter for parameter in _parameters(base)}
    rule = _rule(contents, targets, parameters, source.label)
    of_module: dict[str, list[_Parameter]] = {}
    for parameter in parameters.values():
        of_module.setdefault(parameter.module, []).append(parameter)
    modules: dict[str, Module] = {}
    wrapped: list[_Wrapped] = []
    for name, levels in _levels(contents).items():
        own = of_module.get(rule(name), [])
        found = [parameter for parameter in own if _matches(f"{name}.{parameter.last}", targets)]
        if found:
            wrapped += _assigned(name, levels, found, source)
        else:
            modules |= {level.name: level for level in levels}
    told = {one.told_by_shape for one in wrapped if one.parameter.stacked} - {None}
    common = told.pop() if len(told) == 1 else None
    for one in wrapped:
        inward, note = _acts_on_inputs(one, common, config, base)
        for module in _experts(one, inward=inward, note=note):
            name = rule.strip + module.name.removeprefix(rule.add)
            configured = rule.strip + module.configured.removeprefix(rule.add)
            modules[name] = replace(module, name=name, configured=configured)
    return replace(contents, modules=modules)


def _parameters(base: Base) -> Iterator[_Parameter]:
    """Yield every parameter that the model in memory may have: as stored, and fused from experts stored one by one."""
    types = {part.get("model_type") for part in (base.source.config, base.source.config.get("text_config") or {})}
    single: dict[tuple[str, str], dict[int, str]] = {}
    for key, info in base.tensors.items():
        name, stack = plain(base.name(key)), base.stack(key)
        match = _ONE_BY_ONE.match(name)
        if match is not None:
            single.setdefault((match["experts"], match["part"]), {})[int(match["number"])] = key
        if stack is None and len(info.shape) != 2:
            continue
        layout = base.layout(key)
        turned = layout.kind == "transposed" and not types.intersection(_TURNED)
        blocks = tuple((_Block(numbered(name, index), index, layout.shape[0]),) for index in base.indices(key))
        for spelled in _names_in_memory(name):
            yield _Parameter(spelled, layout.shape, stack is not None, turned, blocks)
    yield from _fused(single, base)


def _names_in_memory(name: str) -> list[str]:
    other = [name.removesuffix(stored) + memory for stored, memory in _RENAMED if name.endswith(stored)]
    return [name, *other]


def _fused(single: Mapping[tuple[str, str], Mapping[int, str]], base: Base) -> Iterator[_Parameter]:
    """Yield the parameters that transformers 5 makes of experts stored one by one."""
    for experts in dict.fromkeys(front for front, _ in single):
        for fused, spellings in _FUSED.items():
            parts = next((names for names in spellings if all((experts, name) in single for name in names)), None)
            if parts is None:
                continue
            keys = [single[experts, name] for name in parts]
            shapes = {base.tensors[key].shape for numbers in keys for key in numbers.values()}
            complete = all(sorted(numbers) == list(range(len(keys[0]))) for numbers in keys)
            if len(shapes) != 1 or not complete or len(shape := shapes.pop()) != 2:
                continue
            blocks = tuple(
                tuple(_Block(plain(base.name(numbers[number])), None, shape[0]) for numbers in keys)
                for number in range(len(keys[0]))
            )
            for front in dict.fromkeys((experts, experts.replace(".block_sparse_moe.", ".mlp."))):
                yield _Parameter(f"{front}.{fused}", (shape[0] * len(parts), shape[1]), True, False, blocks)


def _levels(contents: Contents) -> dict[str, list[Module]]:
    """Return the modules by the name of what is wrapped, the innermost first."""
    found: dict[str, list[Module]] = {}
    for module in contents.modules.values():
        bare = module.name
        while bare.endswith(_WRAPPER):
            bare = bare.removesuffix(_WRAPPER)
        found.setdefault(bare, []).append(module)
    return {bare: sorted(levels, key=lambda level: -len(level.name)) for bare, levels in found.items()}


def _rule(contents: Contents, targets: Any, parameters: Mapping[str, _Parameter], label: str) -> Prefix:
    """Return how the names of wrapped modules are those of the base: as they are, or a prefix apart."""
    if not isinstance(targets, list) or not all(isinstance(target, str) for target in targets):
        raise MatchError(f"{CONFIG_NAME}: target_parameters must be a list of names.")
    lasts = dict.fromkeys(target.rpartition(".")[2] for target in targets)
    names = [f"{bare}.{last}" for bare in _levels(contents) for last in lasts]
    wanted = [name for name in names if _matches(name, targets)]
    rule = find_prefix(wanted, parameters, f"'{show(label)}'")
    if not any(rule(name) in parameters for name in wanted):
        raise MatchError(
            f"'{show(label)}': of its target_parameters ({listing(targets, 5)}) the base has none, neither in one "
            "tensor nor expert by expert under a name that is known. Is this the base it was trained on?"
        )
    return rule


def _matches(name: str, targets: Sequence[str]) -> bool:
    """Whether PEFT targets a parameter: by its whole name or by the end of it."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def _assigned(name: str, levels: list[Module], found: list[_Parameter], source: TensorSource) -> list[_Wrapped]:
    """Say which parameter each level of wrapping adapts: by the module's own order, or where only one fits."""
    if len(levels) != len(found):
        raise MatchError(
            f"'{show(name)}' is wrapped {len(levels)} times, and target_parameters names {len(found)} of its "
            f"parameters ({listing(parameter.last for parameter in found)})."
        )
    sizes = [_sizes(level, source) for level in levels]
    if all(parameter.last in _ORDER for parameter in found):
        ordered = sorted(found, key=lambda parameter: _ORDER.index(parameter.last))
        if all(map(_fits, ordered, sizes)):
            return list(map(_wrapped, ordered, levels, sizes))
    fitting = [[parameter for parameter in found if _fits(parameter, own)] for own in sizes]
    for level, choices in zip(levels, fitting, strict=True):
        if not choices:
            shapes = listing([list(parameter.shape) for parameter in found])
            raise MatchError(f"the factors of '{show(level.name)}' fit none of its parameters, {shapes} an expert.")
    if any(len(choices) > 1 for choices in fitting):
        raise UnsupportedError(
            f"'{show(name)}': several of its parameters ({listing(parameter.last for parameter in found)}) have one "
            "shape, and which factors are whose is not in the file. Merge it with PEFT and diagnose the merged model."
        )
    return list(map(_wrapped, [choices[0] for choices in fitting], levels, sizes))


def _wrapped(parameter: _Parameter, level: Module, sizes: tuple[int, ...]) -> _Wrapped:
    return _Wrapped(parameter, level, (sizes[1], sizes[2]))


def _sizes(level: Module, source: TensorSource) -> tuple[int, ...]:
    """Return rows and columns of A, rows and columns of B."""
    if not level.parts.keys() >= {"lora_A", "lora_B"}:
        raise MatchError(f"'{show(level.name)}': one of its factors is missing ({listing(level.parts)} is there).")
    A, B = (source.header.tensors[level.parts[part]].shape for part in ("lora_A", "lora_B"))
    if len(A) != 2 or len(B) != 2 or A[0] != B[1]:
        raise MatchError(f"'{show(level.name)}': its factors B {list(B)} and A {list(A)} disagree on the rank.")
    return (*A, B[0])


def _fits(parameter: _Parameter, sizes: tuple[int, ...]) -> bool:
    rank, inputs, outputs = sizes
    return rank % parameter.experts == 0 and sorted((inputs, outputs)) == sorted(parameter.shape)


def _acts_on_inputs(one: _Wrapped, common: bool | None, config: AdapterConfig, base: Base) -> tuple[bool, str | None]:
    """Return whether A acts on the inputs of an expert, and a note where no shape tells.

    Of a parameter `[E, d1, d2]` A takes d1 and B gives d2 up to PEFT 0.18; the other way round where the module of
    experts is transposed in 0.19.0, and where it is not since 0.19.1. A matrix `[d1, d2]` gets `B A` as it lies.
    """
    parameter = one.parameter
    if not parameter.stacked:
        return not parameter.turned, None
    told = one.told_by_shape if one.told_by_shape is not None else common
    if told is not None:
        return told, None
    version = config.raw.get("peft_version")
    swapped = parameter.experts == 1 or _is_swapped(version, base.source.config)
    written = f"PEFT {show(version, 20)}" if version else "a PEFT before 0.18, which its file does not name"
    note = f"its experts are square: which of their axes A acts on is taken as {written} has it for this architecture"
    return swapped != parameter.turned, note


def _is_swapped(version: Any, config: Mapping[str, Any]) -> bool:
    match = _VERSION.match(version) if isinstance(version, str) else None
    number = tuple(int(part or 0) for part in match.groups()) if match else (0, 0, 0)
    flagged = config.get("model_type") in _FLAGGED
    if number < (0, 19, 0):
        return False
    return flagged if number == (0, 19, 0) else not flagged


def _experts(one: _Wrapped, *, inward: bool, note: str | None) -> Iterator[Module]:
    """Yield the modules that one pair of stacked factors is: one for each block of outputs of each expert."""
    parameter = one.parameter
    for number, blocks in enumerate(parameter.blocks):
        first = 0
        for block in blocks:
            rows = slice(first, first + block.rows)
            family = _expert(number, parameter.experts, rows, inward=inward, note=note)
            share = parameter.experts * len(blocks)
            yield Module(block.name, parameter.name, family, one.module.parts, block.index, share)
            first += block.rows


def _expert(number: int, count: int, rows: slice, *, inward: bool, note: str | None) -> Family:
    """Return LoRA on some outputs of one expert, its factors cut out of the stacked ones."""

    def own_a(stored: torch.Tensor) -> torch.Tensor:
        return stored.reshape(count, -1, stored.shape[-1])[number]

    def own_b(stored: torch.Tensor) -> torch.Tensor:
        return stored.reshape(stored.shape[0], -1, count)[:, :, number]

    def cut(factor: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda stored: factor(stored)[rows]

    straight = {"lora_A": ("lora_A", own_a), "lora_B": ("lora_B", cut(own_b))}
    turned = {
        "lora_A": ("lora_B", cut(lambda stored: own_a(stored).T)),
        "lora_B": ("lora_A", lambda stored: own_b(stored).T),
    }
    family = respelled(LORA, LORA.parse, straight if inward else turned)
    if note is None:
        return family
    return replace(family, doubts=lambda module, parts, config: [*family.doubts(module, parts, config), note])
