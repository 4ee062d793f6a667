"""The dialect of loralib: bare `lora_A` and `lora_B` in a torch file, and not a word about how they were made.

- Linear: `dW = s B A`, also where the weight is stored `[in, out]` (`fan_in_fan_out`).
- Embedding: A `[r, vocab]`, B `[dim, r]`: `dW = s (B A)^T`.
- MergedLinear: see `merged_linear`; which blocks are enabled is not in the file unless all are.
- Conv2d of kernel k: A `[r k, in k]`, B `[out / groups k, r k]`: `dW` is `s B A` viewed in the kernel's own shape,
  so that row `o` of the matrix is rows `o k` to `o k + k - 1` of `B A` side by side.

`s = alpha / r`. What the file leaves out is read from `train_args.json` beside it, under loralib's own names
(`r`, `lora_alpha`, `enable_lora`, `fan_in_fan_out`), one value for all or a mapping from module names; alpha also
from the option. The original DyLoRA (arXiv:2210.07558) writes the same tensors: they are read at their full rank.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from spectra.errors import FormatError, MatchError, UnsupportedError
from spectra.loaders import strict_json
from spectra.loaders.adapters.adapter import Adapter, Dialect, Found
from spectra.loaders.adapters.config import LORALIB_SETTINGS as SETTINGS
from spectra.loaders.adapters.config import AdapterConfig, number_in, rank_in
from spectra.loaders.adapters.contents import Module, sort_tensors
from spectra.loaders.adapters.dialects.locating import located
from spectra.loaders.adapters.dialects.respelled import as_it_lies, respelled
from spectra.loaders.adapters.dialects.unconfigured import configured, given_alpha
from spectra.loaders.adapters.families.lora import LORA
from spectra.loaders.adapters.families.merged_linear import PARTS, merged_linear
from spectra.loaders.adapters.family import Family, Fit, Shapes, Target, called, never
from spectra.loaders.files import exists
from spectra.loaders.plan import Plan
from spectra.text import listing, show
from spectra.updates import Dense, LowRank, Update

_EMBEDDINGS = ("wte", "wpe")
EMBEDDING = respelled(
    LORA, LORA.parse, {"lora_A": ("lora_embedding_A", as_it_lies), "lora_B": ("lora_embedding_B", as_it_lies)}
)


def kernel_family(kernel: int) -> Family:
    """Return the family of loralib's convolutions of this kernel size."""

    def fits(module: str, parts: Shapes, config: AdapterConfig) -> Fit | None:
        A, B = (parts.get(part, ()) for part in PARTS)
        if len(A) != 2 or len(B) != 2 or A[0] != B[1] or A[0] % kernel:
            raise MatchError(
                f"'{show(module)}': its factors B {list(B)} and A {list(A)} are not those of a kernel of {kernel}."
            )
        return None

    def update(target: Target) -> Update:
        A, B, (m, n) = target.part("lora_A"), target.part("lora_B"), target.shape
        B = B * target.config.scaling_of(target.module, len(A) // kernel)
        if len(B) * A.shape[1] != m * n:
            raise MatchError(f"'{show(target.module)}': B A is {[len(B), A.shape[1]]}, which is no {[m, n]}.")
        beside = len(B) // m  # rows of B A that make one row of the matrix
        if beside * A.shape[1] == n and beside * len(A) < min(m, n):
            whole: torch.Tensor = torch.block_diag(*[A] * beside)  # type: ignore[no-untyped-call]
            return LowRank(B.reshape(m, -1), whole)
        return Dense((B @ A).reshape(m, n))

    return Family(
        method="LORA",
        parse=LORA.parse,
        update=update,
        label=called("LoRA"),
        rank=lambda parts, config: kernel * parts["lora_A"][0],
        fits=fits,
        needs_base=never,
    )


@dataclass(frozen=True)
class _Settings:
    """What the file does not say, by module: from the file beside it, or from the caller."""

    raw: Mapping[str, Any]

    def of(self, name: str, module: str) -> Any:
        """Return a setting of a module, None where there is none."""
        value = self.raw.get(name)
        return value.get(module) if isinstance(value, Mapping) else value

    def enabled(self, module: str) -> tuple[bool, ...] | None:
        """Return the flags of a module's blocks. Raises FormatError for anything that is no list of flags."""
        flags = self.of("enable_lora", module)
        if flags is None:
            return None
        if not isinstance(flags, list) or not all(isinstance(flag, bool) for flag in flags) or not any(flags):
            raise FormatError(f"{SETTINGS}: enable_lora of '{show(module)}' must be a list of true and false.")
        return tuple(flags)

    def number(self, name: str, module: str) -> float | None:
        value = self.of(name, module)
        return None if value is None else number_in({name: value}, name, 0.0)

    def rank(self, module: str) -> int | None:
        value = self.of("r", module) if "r" in self.raw else self.of("lora_r", module)
        return None if value is None else rank_in({"r": value}, "r", 1)


def _recognises(found: Found) -> bool:
    return not found.raw and found.kins == {"loralib"}


def _read(found: Found, plan: Plan) -> Adapter:
    sorted_out = sort_tensors(LORA, plan)
    beside = found.folder / SETTINGS
    settings = _Settings(strict_json.read(beside) if exists(beside) else {})
    keys = located(sorted_out.modules, found)
    settled = [_settled(module, keys.get(name), settings, found) for name, module in sorted_out.modules.items()]
    contents = replace(sorted_out, modules={module.name: module for module, _ in settled})
    ranks = {module.configured: rank for module, rank in settled}
    alphas = {name: _alpha(settings, name, found) for name in ranks}
    config = configured(ranks, alphas, {}, fan_in_fan_out=_fan_in_fan_out(settings, keys, found))
    return Adapter(config, found.source, contents)


def _alpha(settings: _Settings, module: str, found: Found) -> float:
    told = settings.number("lora_alpha", module)
    return given_alpha(found, "loralib") if told is None else told


def _settled(module: Module, key: str | None, settings: _Settings, found: Found) -> tuple[Module, int]:
    """Say what kind of layer a module is, by the shapes of its factors and of the base, and its rank."""
    shapes = {part: found.source.header.tensors[name].shape for part, name in module.parts.items()}
    A, B = (shapes.get(part, ()) for part in PARTS)
    if len(A) != 2 or len(B) != 2 or key is None:
        return module, 1  # refused when it is placed or planned, by its name
    stored = found.base.tensors[key].shape
    if len(stored) > 2:
        return replace(module, family=kernel_family(stored[-1])), A[0] // stored[-1] or 1
    enabled = settings.enabled(module.configured)
    if enabled is not None or A[0] != B[1]:
        return replace(module, family=merged_linear(enabled or _all_enabled(module, A, B, stored, found))), B[1] or 1
    told = settings.rank(module.configured)
    if told is not None and told != A[0]:
        raise MatchError(f"'{show(module.name)}' has the rank {A[0]}, and {SETTINGS} says {told}.")
    last = module.name.rpartition(".")[2].lower()
    return (replace(module, family=EMBEDDING) if "emb" in last or last in _EMBEDDINGS else module), A[0] or 1


def _all_enabled(
    module: Module, A: tuple[int, ...], B: tuple[int, ...], stored: tuple[int, ...], found: Found
) -> tuple[bool, ...]:
    """Return the flags of a fused weight all of whose blocks have factors: the only ones that need not be told."""
    groups = A[0] // B[1] if B[1] else 0
    outputs = stored[1] if stored[0] == A[1] else stored[0]
    if not groups or A[0] % B[1] or B[0] != outputs:
        raise UnsupportedError(
            f"'{show(module.name)}' in '{show(found.source.label)}' adapts some of the blocks of a fused weight "
            f"(B {list(B)}, A {list(A)}, weight {list(stored)}) and does not say which. Write enable_lora into a "
            f"{SETTINGS} beside it."
        )
    return (True,) * groups


def _fan_in_fan_out(settings: _Settings, keys: Mapping[str, str], found: Found) -> bool:
    """Say how square weights lie, which shapes do not tell. Raises UnsupportedError where they lie in both ways."""
    square = [name for name, key in keys.items() if len(set(found.base.tensors[key].shape)) == 1]
    flags = {bool(settings.of("fan_in_fan_out", name)) for name in square}
    if len(flags) > 1:
        raise UnsupportedError(
            f"{SETTINGS}: fan_in_fan_out is true for some square weights and not for others ({listing(square, 3)}). "
            "Split the adapter by it."
        )
    return flags == {True}


LORALIB = Dialect("loralib", _recognises, _read)
