"""The dialect of LoRMA (arXiv:2506.07621): a state dict with `lorma_A` and `lorma_B`, and its arguments beside it.

LoRMA multiplies: `W' = T W0` (mode "pre") or `W' = W0 T` ("post"), with `T = s infl(B A)` and `s = alpha / r`:

- `rank_inflation` "rri" (LoRMA+): `T = I + s B A`, so `dW = (s B) (A W0)`, or `(s W0 B) A`, of rank r;
- "shift" (LoRMA_pi): `T = s Shift(B A)`, `Shift(M)[i, j] = M[i, (j - i) mod n]`: full rank;
- "none": `T = s B A`, so `dW = (s B A - I) W0`: W' has rank r and dW is full.

The trainers dump the state dict of the wrapped model, the base under `original_linear` (`original_layer` and
`lora_A`, `lora_B` in the tree for language understanding); none saves its arguments. They are read from
`lorma_args.json` beside the tensors, under the trainers' own names.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from spectra.errors import FormatError, MatchError, UnsupportedError
from spectra.loaders import strict_json
from spectra.loaders.adapters.adapter import Adapter, Dialect, Found
from spectra.loaders.adapters.config import LORMA_SETTINGS as SETTINGS
from spectra.loaders.adapters.config import AdapterConfig, flag_in, number_in, rank_in
from spectra.loaders.adapters.contents import Contents, sort_tensors
from spectra.loaders.adapters.family import Family, Fit, Shapes, Target, by_suffix, called
from spectra.loaders.files import exists
from spectra.loaders.plan import Plan
from spectra.text import listing, show
from spectra.updates import Blocks, Dense, LowRank, Multiplied, Sum, Update

_MODES, _INFLATIONS = ("pre", "post"), ("rri", "shift", "none")
_WRAPPED = ("original_linear", "original_layer")
_LABELS = {"rri": "LoRMA+", "shift": "LoRMA_pi", "none": "LoRMA"}


def lorma(mode: str, inflation: str, names: str = "lorma") -> Family:
    """Return the family of one mode and one rank inflation, whose factors are `<names>_A` and `<names>_B`."""
    own_a, own_b = f"{names}_A", f"{names}_B"

    def fits(module: str, parts: Shapes, config: AdapterConfig) -> Fit:
        A, B = parts.get(own_a, ()), parts.get(own_b, ())
        if len(A) != 2 or len(B) != 2 or A[0] != B[1] or A[1] != B[0]:
            raise MatchError(f"'{show(module)}': its factors B {list(B)} and A {list(A)} make no square matrix.")
        return (B[0], None) if mode == "pre" else (None, A[1])

    def update(target: Target) -> Update:
        B, A, W0 = target.part(own_b), target.part(own_a), target.base()
        B = B * target.config.scaling_of(target.module, len(A))
        if inflation == "shift":
            return Multiplied(W0, (Blocks(shifted(B @ A)[None]),), "rows" if mode == "pre" else "columns")
        product = LowRank(B, A @ W0) if mode == "pre" else LowRank(W0 @ B, A)
        return product if inflation == "rri" else Sum((product, Dense(-W0)))

    return Family(
        method="LORMA",
        parse=by_suffix(own_a, own_b),
        update=update,
        label=called(_LABELS[inflation]),
        rank=lambda parts, config: parts[own_a][0] if inflation == "rri" else None,
        fits=fits,
    )


def shifted(matrix: torch.Tensor) -> torch.Tensor:
    """Return Shift(M) `[n, n]`: row i rotated to the right by i."""
    n = len(matrix)
    steps = torch.arange(n)
    return torch.gather(matrix, 1, (steps[None] - steps[:, None]) % n)


def _recognises(found: Found) -> bool:
    return found.kins == {"lorma"} or (found.kins == {"loralib"} and _wraps(found))


def _wraps(found: Found) -> bool:
    return any(step in name.split(".") for name in found.source.header.tensors for step in _WRAPPED)


def _read(found: Found, plan: Plan) -> Adapter:
    raw, names = _settings(found), "lorma" if found.kins == {"lorma"} else "lora"
    mode, inflation = _choice(raw, "lorma_mode", _MODES), _choice(raw, "rank_inflation", _INFLATIONS)
    if names == "lora" and mode == "post":
        raise UnsupportedError(
            f"{SETTINGS}: mode 'post' of LoRMA's tree for language understanding scales in some versions and not in "
            "others, and nothing says which this is. Merge it with its own code and give the merged model."
        )
    contents = _without_copies(sort_tensors(lorma(mode, inflation, names), plan), plan)
    r = rank_in(raw, "lorma_r", 0)
    tensors = found.source.header.tensors
    factors = [module.parts[f"{names}_A"] for module in contents.modules.values() if f"{names}_A" in module.parts]
    ranks = {tensors[key].shape[0] for key in factors if tensors[key].shape}
    if ranks - {r}:
        raise MatchError(f"'{show(found.source.label)}': rank {listing(sorted(ranks))}, but {SETTINGS} says {r}.")
    return Adapter(AdapterConfig("LORMA", r, number_in(raw, "lorma_alpha", 0.0), raw=raw), found.source, contents)


def _settings(found: Found) -> Mapping[str, Any]:
    """Return the trainer's arguments. Raises UnsupportedError where they are not beside the tensors."""
    path = found.folder / SETTINGS
    raw = dict(strict_json.read(path)) if exists(path) else {}
    if raw.get("lorma_alpha") is None:
        raw["lorma_alpha"] = found.alpha_given()
    if "do_rri" in raw and "rank_inflation" not in raw:  # so in the tree for language understanding
        raw["rank_inflation"] = "rri" if flag_in(raw, "do_rri") else "none"
    missing = [name for name in ("lorma_r", "lorma_alpha", "lorma_mode", "rank_inflation") if raw.get(name) is None]
    if missing:
        raise UnsupportedError(
            f"'{show(found.source.label)}' is a state dict of LoRMA, which does not say what it multiplies: "
            f"{listing(missing)} must stand in a {SETTINGS} beside it, as its trainer had them."
        )
    return raw


def _choice(raw: Mapping[str, Any], name: str, known: tuple[str, ...]) -> str:
    value = raw[name]
    if value not in known:
        raise FormatError(f"{SETTINGS}: {name} is {show(repr(value), 40)}; it must be one of {listing(known)}.")
    return str(value)


def _without_copies(contents: Contents, plan: Plan) -> Contents:
    """Leave out the base inside each wrapped layer: the base itself is at hand."""
    replaced = {}
    for name, key in contents.replaced.items():
        if any(step in name.split(".") for step in _WRAPPED):
            plan.skip(key, "a frozen copy of the base weight")
        else:
            replaced[name] = key
    return replace(contents, replaced=replaced)


LORMA = Dialect("LoRMA", _recognises, _read)
