"""The stored factors of LoRA as plain `B` `[out, r]` and `A` `[r, in]`, whatever an option of PEFT makes of them.

QA-LoRA (arXiv:2309.14717) pools the inputs: each group of g neighbours is averaged, times the number of groups, so
that each column of the stored `A` `[r, in / g]` stands for g equal ones of `in / g / g` its size. BD-LoRA stores a
block-diagonal factor without its zeros, block below block. KaSA has a diagonal between the two.
"""

from collections.abc import Mapping

import torch

from spectra.errors import FormatError, MatchError
from spectra.layout import Layout
from spectra.loaders.adapters.config import CONFIG_NAME, AdapterConfig, rank_in
from spectra.loaders.adapters.families.starts import drops
from spectra.loaders.adapters.family import Fit, Shapes, Target
from spectra.text import listing, show

PARTS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_diag")
_GROUP = 16


def refusal(config: AdapterConfig) -> str | None:
    """Say why the options of the configuration are not read, None where they are."""
    if config.flag_in("use_qalora") and config.rank_in("qalora_group_size", _GROUP) == 1:
        return "QA-LoRA with groups of one: of its factors nobody can tell whether they pool."
    return None


def fits(module: str, parts: Shapes, config: AdapterConfig) -> Fit:
    """Return the `[out, in]` shape of `B A`. Raises MatchError when a part is missing or the ranks disagree."""
    embedding = "lora_embedding_A" in parts or "lora_embedding_B" in parts
    A, B = (parts.get(f"lora_{'embedding_' * embedding}{factor}") for factor in "AB")
    if A is None or B is None:
        raise MatchError(f"'{show(module)}': one of its factors is missing ({listing(parts)} is there).")
    if embedding:
        _require_rank(module, B[1:2] == A[:1] and len(A) == 2, A, B)
        return A[1], B[0]
    if drops(config) and parts.get("lora_diag") != A[:1]:
        raise MatchError(f"'{show(module)}': KaSA without a lora_diag of {A[0]} values.")
    compact, blocks = _compact(module, A, B, config)
    columns = B[1] * blocks if compact == "lora_B" and len(B) == 2 else B[1] if len(B) > 1 else 0
    grouped = len(A) > 2 and columns and not A[0] % columns
    _require_rank(module, len(A) > 1 and (columns == A[0] or bool(grouped)), A, B)
    if config.flag_in("use_qalora") and len(A) == 2:
        return B[0], None  # A has as many columns as groups, or as inputs where the layer is no quantised one
    return B[0], Layout("kernel", A).shape[1] * (blocks if compact == "lora_A" else 1)


def _require_rank(module: str, agree: bool, A: tuple[int, ...], B: tuple[int, ...]) -> None:
    if not agree:
        raise MatchError(f"'{show(module)}': its factors B {list(B)} and A {list(A)} disagree on the rank.")


def factors(target: Target) -> tuple[torch.Tensor, torch.Tensor]:
    """Return B, scaled, and A in float32, for an embedding with the vocabulary as its outputs."""
    parts, config = target.parts, target.config
    if "lora_embedding_A" in parts:
        B, A = target.part("lora_embedding_A").T, target.part("lora_embedding_B").T
        return B * config.scaling_of(target.module, B.shape[1]), A
    A, B = target.part("lora_A"), target.part("lora_B")
    scaling = config.scaling_of(target.module, A.shape[0])
    compact, blocks = _compact(target.module, tuple(A.shape), tuple(B.shape), config)
    A = _block_diagonal(A, blocks) if compact == "lora_A" else A.flatten(1)
    B = _block_diagonal(B, blocks) if compact == "lora_B" else B.flatten(1)
    if config.flag_in("use_qalora") and target.layout.kind != "kernel":
        A = _pooled(target, A)
    if "lora_diag" in parts:
        B = B * target.part("lora_diag")
    return B * scaling, A


def _compact(module: str, A: tuple[int, ...], B: tuple[int, ...], config: AdapterConfig) -> tuple[str, int]:
    """Return which factor BD-LoRA stores without its zeros, "" for none, and in how many blocks."""
    given = config.raw.get("use_bdlora")
    if not given or len(A) != 2 or len(B) != 2:
        return "", 1
    if not isinstance(given, Mapping):
        raise FormatError(f"{CONFIG_NAME}: use_bdlora is {show(repr(given), 40)}; it must be a mapping.")
    for part, option in (("lora_A", "target_modules_bd_a"), ("lora_B", "target_modules_bd_b")):
        names = given.get(option) or []
        if any(isinstance(name, str) and name in module for name in names):
            return part, rank_in(given, "nblocks", 1)
    return "", 1


def _block_diagonal(stored: torch.Tensor, blocks: int) -> torch.Tensor:
    whole: torch.Tensor = torch.block_diag(*stored.chunk(blocks))  # type: ignore[no-untyped-call]
    return whole


def _pooled(target: Target, A: torch.Tensor) -> torch.Tensor:
    """Return the factor that acts on the inputs themselves; one that has a column for each of them does already."""
    group, inputs = target.config.rank_in("qalora_group_size", _GROUP), target.shape[1]
    if A.shape[1] == inputs:
        return A
    if A.shape[1] * group != inputs:
        raise MatchError(
            f"'{show(target.module)}': its lora_A has {A.shape[1]} columns, which in groups of {group} "
            f"(qalora_group_size) are not the {inputs} inputs of the base. Is this the base it was trained on?"
        )
    return A.repeat_interleave(group, 1) * (inputs / group / group)
