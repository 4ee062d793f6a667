"""The dialect of AdapterHub's `adapters`: `pytorch_adapter.bin` with its configuration under `config`.

The tensors of one module stand under `<module>.loras.<adapter>`:

- LoRA: `dW = s B A` with `s = alpha / r`. On a weight that fuses q, k and v only the blocks named in
  `attn_matrices` are adapted, as by loralib's MergedLinear.
- (IA)3 (arXiv:2205.05638), `composition_mode` "scale": `lora_B` `[out, 1]` alone, `W' = diag(alpha l) W0`. On a fused
  weight the blocks without an l of their own are multiplied by alpha too.
- VeRA (arXiv:2310.11454): `dW = s vera_B B vera_D A` with whole matrices `vera_B` and `vera_D`, A and B shared.
- DoRA: `W' = diag(m / ||W0 + U||) (W0 + s U)` where `dW = s U` without it. The norm is that of U without s: so the
  library trains and runs it; its own merge forgets s in the numerator too, which is the same only where s = 1.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from spectra.errors import FormatError, MatchError, UnsupportedError
from spectra.loaders.adapters.adapter import Adapter, Dialect, Found
from spectra.loaders.adapters.config import CONFIG_NAME, AdapterConfig, flag_in, number_in, rank_in
from spectra.loaders.adapters.contents import Contents, Module, sort_tensors
from spectra.loaders.adapters.dialects.locating import located
from spectra.loaders.adapters.families.merged_linear import merged_linear
from spectra.loaders.adapters.family import Family, Parsed, Shapes, Target
from spectra.loaders.files import exists
from spectra.loaders.plan import Plan
from spectra.text import listing, show
from spectra.updates import LowRank, Rescaled, Update, nothing

_NAME = re.compile(r"^(?P<module>.+)\.loras\.(?P<adapter>[^.]+)\.(?P<part>lora_[AB]|vera_[BD]|m)(?:\.weight)?$")
_SHARED = r"(?:.+\.)?shared_parameters\.[^.]+\.lora_[AB]"
_HEADS = ("pytorch_model_head.bin", "model_head.safetensors")
_ORDER, _ALPHA = "qkv", 8


def _parse(name: str) -> Parsed | None:
    match = _NAME.match(name)
    return match and (match["module"], match["part"], match["adapter"])


def _label(config: AdapterConfig, parts: Shapes) -> str:
    if "vera_B" in parts:
        return "DVoRA" if "m" in parts else "VeRA"
    if "lora_A" not in parts:
        return "(IA)3"
    return "DoRA" if "m" in parts else "LoRA"


def _fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int | None]:
    """Return the outputs of the update, and its inputs where its own factors have them."""
    needed = {"vera_B", "vera_D"} if "vera_B" in parts else {"lora_B"} if _is_scaled(config) else {"lora_A", "lora_B"}
    missing = sorted((needed | ({"m"} if flag_in(config.raw, "use_dora") else set())) - parts.keys())
    if missing:
        raise MatchError(f"'{show(module)}': its {listing(missing)} is missing ({listing(parts)} is there).")
    if "vera_B" in parts:
        return parts["vera_B"][0], None
    A, B = parts.get("lora_A"), parts["lora_B"]
    if len(B) != 2 or (A is not None and (len(A) != 2 or A[0] != B[1])) or (A is None and B[1] != 1):
        raise MatchError(f"'{show(module)}': its factors B {list(B)} and A {list(A or ())} disagree on the rank.")
    return B[0], A[1] if A else None


def _is_scaled(config: AdapterConfig) -> bool:
    return config.raw.get("composition_mode") == "scale"


def _needs_base(parts: Shapes, config: AdapterConfig) -> bool:
    return "m" in parts or _is_scaled(config)


def _rank(parts: Shapes, config: AdapterConfig) -> int | None:
    if _is_scaled(config):
        return None
    shape = parts.get("lora_A") or parts.get("vera_D")
    return shape[0] if shape else config.r


def _doubts(module: str, parts: Shapes, config: AdapterConfig) -> list[str]:
    if "m" not in parts or config.alpha == config.r:
        return []
    return ["DoRA of AdapterHub with alpha other than r: what the model computes; the library's merge leaves s out"]


def _update(target: Target) -> Update:
    scaling = target.config.scaling_of(target.module)
    if _is_scaled(target.config):
        return _scaled(target, target.part("lora_B").flatten())
    B, A = _factors(target)
    if "m" not in target.parts:
        return LowRank(B * scaling, A)
    base = target.base()
    norm = torch.linalg.vector_norm((base + B @ A).double(), dim=1)
    gain = target.parts["m"].double().flatten() / norm
    return Rescaled(base, LowRank(B * scaling, A), gain.float())


def _factors(target: Target) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the factors B and A of an update without its scaling."""
    if "vera_B" not in target.parts:
        return target.part("lora_B"), target.part("lora_A")
    B, A, n = target.shared("lora_B").float(), target.shared("lora_A").float(), target.shape[1]
    left, middle = target.part("vera_B"), target.part("vera_D")
    if left.shape[1] != len(B) or middle.shape != (B.shape[1], len(A)) or A.shape[1] != n:
        raise MatchError(
            f"'{show(target.module)}': its vera_B {list(left.shape)} and vera_D {list(middle.shape)} and the shared "
            f"B {list(B.shape)} and A {list(A.shape)} make no update of {list(target.shape)}."
        )
    return left @ B @ middle, A


def _scaled(target: Target, gain: torch.Tensor) -> Update:
    return Rescaled(target.base(), nothing(target.shape, gain), target.config.alpha * gain)


HUB = Family(
    method="LORA",
    parse=_parse,
    update=_update,
    label=_label,
    rank=_rank,
    fits=_fits,
    needs_base=_needs_base,
    doubts=_doubts,
    shared=_SHARED,
)


def _fused_scaling(enabled: tuple[bool, ...]) -> Family:
    """Return the family of (IA)3 on a weight that fuses q, k and v, of which some have an l."""

    def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, None]:
        rows, _ = _fits(module, parts, config)
        return rows // sum(enabled) * len(enabled), None

    def update(target: Target) -> Update:
        own = iter(torch.split(target.part("lora_B").flatten(), target.shape[0] // len(enabled)))
        size = target.shape[0] // len(enabled)
        return _scaled(target, torch.cat([next(own) if on else torch.ones(size) for on in enabled]))

    return replace(HUB, fits=fits, update=update)


def _recognises(found: Found) -> bool:
    return isinstance(found.raw.get("config"), Mapping) and "model_class" in found.raw


def _read(found: Found, plan: Plan) -> Adapter:
    config = _config(found, plan)
    sorted_out = sort_tensors(HUB, plan)
    if not sorted_out.modules:
        raise MatchError(f"'{show(found.source.label)}' has none of AdapterHub's LoRA tensors.")
    shared = {name.rpartition(".")[2]: key for name, key in sorted_out.shared.items()}
    if len(shared) < len(sorted_out.shared):
        raise UnsupportedError(f"'{show(found.source.label)}' shares factors among some of its modules only.")
    keys = located(sorted_out.modules, found)
    modules = {name: _settled(module, keys.get(name), config, found) for name, module in sorted_out.modules.items()}
    _note_heads(found.folder, plan)
    return Adapter(config, found.source, Contents(modules, sorted_out.replaced, shared))


def _config(found: Found, plan: Plan) -> AdapterConfig:
    """Check what the configuration says. Raises UnsupportedError for what has no update of a weight, or none known."""
    inner = found.raw["config"]
    kind = inner.get("architecture") or "bottleneck adapter"
    if kind != "lora" or flag_in(inner, "use_gating"):
        gated = " with a gate that depends on the input" if kind == "lora" else ""
        raise UnsupportedError(
            f"{CONFIG_NAME} is that of the AdapterHub library ({show(kind)}{gated}), which this version "
            "does not read as a weight update; spectra.insertions measures bottlenecks and prefixes."
        )
    mode = inner.get("composition_mode", "add")
    if mode not in ("add", "scale"):
        raise FormatError(f"{CONFIG_NAME}: composition_mode is {show(repr(mode), 40)}; it must be 'add' or 'scale'.")
    base, r = found.raw.get("model_name"), rank_in(inner, "r", 8)
    if mode == "scale" and r > 1:
        raise UnsupportedError(f"{CONFIG_NAME}: (IA)3 of AdapterHub has r = 1, this one {r}.")
    alpha = found.alpha_given() if inner.get("alpha") is None else number_in(inner, "alpha", _ALPHA)
    if alpha is None:
        plan.notes.append(f"{CONFIG_NAME} has no alpha: {_ALPHA}, the default of AdapterHub, is taken")
    return AdapterConfig(
        method="LORA",
        r=r,
        alpha=_ALPHA if alpha is None else alpha,
        base_model=base if isinstance(base, str) else None,
        raw=inner,
    )


def _settled(module: Module, key: str | None, config: AdapterConfig, found: Found) -> Module:
    """Say whether a module is a plain weight or one that fuses q, k and v."""
    if key is None or "lora_B" not in module.parts:
        return module
    layout, rows = found.base.layout(key), found.source.header.tensors[module.parts["lora_B"]].shape[0]
    matrices = config.raw.get("attn_matrices")
    enabled = tuple(letter in matrices for letter in _ORDER) if isinstance(matrices, list) else (True,) * 3
    size = _block(module, rows, layout.shape[0], sum(enabled), found)
    if "m" in module.parts and (size or layout.kind == "transposed"):
        raise UnsupportedError(f"'{show(module.name)}': DoRA of AdapterHub on a fused or transposed weight.")
    if not size:
        return module
    return replace(module, family=_fused_scaling(enabled) if _is_scaled(config) else merged_linear(enabled))


def _block(module: Module, rows: int, outputs: int, groups: int, found: Found) -> bool:
    """Say whether a module's factors are those of `groups` of the three blocks of a fused weight."""
    A = module.parts.get("lora_A")
    if rows == outputs:  # all three, each with an A of its own, or a weight that fuses nothing
        B = found.source.header.tensors[module.parts["lora_B"]].shape
        return A is not None and len(B) == 2 and found.source.header.tensors[A].shape[0] == 3 * B[1] and groups == 3
    return groups > 0 and rows * len(_ORDER) == outputs * groups


def _note_heads(folder: Path, plan: Plan) -> None:
    beside = [name for name in _HEADS if exists(folder / name)]
    if beside:
        plan.notes.append(f"{listing(beside)} beside the adapter, a head for its task, is not read")


ADAPTER_HUB = Dialect("AdapterHub", _recognises, _read)
