"""LoRA-XS (arXiv:2405.17604): `dW = s B R A`, R `[r, r]` trained between frozen factors of W0 that are saved too.

Its folder is one of PEFT's LoRA by its configuration. R was hung into each module under a name with an underscore where
PEFT's have a dot, so that PEFT, taking the adapter's name out, glues it to the module's: `q_proj_lora_latent_mapping`.
"""

import re

from spectra.loaders.adapters.adapter import Adapter, Dialect, Found
from spectra.loaders.adapters.config import AdapterConfig, read_config
from spectra.loaders.adapters.dialects.peft import read_as
from spectra.loaders.adapters.families.lora import check, doubts
from spectra.loaders.adapters.families.stored import disagreement, shape_of
from spectra.loaders.adapters.family import Family, Parsed, Shapes, Target, by_suffix, called, never
from spectra.loaders.plan import Plan
from spectra.updates import LowRank

_LATENT = re.compile(r"^(?P<module>.+?)(?:\.default)?_lora_latent_mapping\.weight$")
_factor = by_suffix("lora_A", "lora_B")


def parse(name: str) -> Parsed | None:
    """Split a tensor's name into module, part and adapter; the latent mapping is of the adapter that has no name."""
    latent = _LATENT.match(name)
    return (latent["module"], "latent", None) if latent else _factor(name)


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int]:
    """Return the `[out, in]` shape of `B R A`."""
    A, B, R = (shape_of(module, parts, name) for name in ("lora_A", "lora_B", "latent"))
    if not A[0] == B[1] == R[0] == R[1]:
        raise disagreement(module, parts)
    return B[0], A[1]


def rank(parts: Shapes, config: AdapterConfig) -> int:
    """Return the rank of the frozen factors."""
    return shape_of("", parts, "lora_A")[0]


def update(target: Target) -> LowRank:
    """Return dW of one module."""
    A, B, R = (target.part(name) for name in ("lora_A", "lora_B", "latent"))
    return LowRank(B @ (R * target.config.scaling_of(target.module, len(A))), A)


LORA_XS = Family(
    method="LORA_XS",
    parse=parse,
    update=update,
    label=called("LoRA-XS"),
    rank=rank,
    fits=fits,
    needs_base=never,
    check=check,
    doubts=doubts,
)


def _recognises(found: Found) -> bool:
    return bool(found.raw) and any(method.name == "LoRA-XS" for method in found.methods)


def _read(found: Found, plan: Plan) -> Adapter:
    config = read_config(found.raw)
    LORA_XS.check(config)
    return read_as(LORA_XS, config, found, plan)


LORA_XS_FOLDER = Dialect("LoRA-XS", _recognises, _read)
