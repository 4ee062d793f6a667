"""FRoD (https://doi.org/10.1609/aaai.v40i31.39813): W in the basis that all layers of a kind share.

With V of the kind of module, `W0 = U diag(l0) V^T`, U of unit columns; `W' = U (diag(l) + S) V^T`, l and the few
entries of S trained; `dW = W' - W0`.
"""

import torch

from spectra.errors import MatchError, UnsupportedError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.families.unread import AGAIN
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix, called
from spectra.text import listing, show
from spectra.updates import Dense, Update

_LEAST = 1e-12


def fits(module: str, parts: Shapes, config: AdapterConfig) -> None:
    """Raise MatchError where one of the trained vectors is missing; the shape is that of the base."""
    if parts.keys() != {"frod_lambda_l", "frod_lambda_s_values"}:
        raise MatchError(f"'{show(module)}': part of it is missing ({listing(parts)} is there).")


def update(target: Target) -> Update:
    """Return dW in full: its rank is not bounded."""
    kind, base = kind_of(target.module), target.base().double()
    V, (rows, columns) = target.shared(f"frod_V.{kind}").double(), target.shared(f"frod_s_indices.{kind}").long()
    scale, entries = target.part("frod_lambda_l").double(), target.part("frod_lambda_s_values").double()
    n = base.shape[1]
    if V.shape != (n, n) or len(scale) != n or len(entries) != len(rows):
        raise MatchError(
            f"'{show(target.module)}': a basis {list(V.shape)}, {len(scale)} values and {len(entries)} entries at "
            f"{len(rows)} places do not fit a matrix {list(base.shape)}."
        )
    middle = torch.diag(scale).index_put((rows, columns), entries, accumulate=True)
    return Dense((_directions(target, base, V) @ middle @ V.T - base).float())


def kind_of(module: str) -> str:
    """Return the kind of a module, whose basis it shares: its name within the layer, without the layer's number."""
    path = module.split(".")
    if len(path) == 1 or path[-2].isdigit():
        return path[-1]
    return "attention_output" if path[-3:] == ["attention", "output", "dense"] else "_".join(path[-2:])


def _directions(target: Target, base: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    """Return U as PEFT holds it: rounded to float32 and then to the dtype of the base."""
    try:
        scaled = torch.linalg.solve(V, base.T).T
    except RuntimeError:  # of a singular matrix, as torch raises it
        raise UnsupportedError(f"'{show(target.module)}': its shared basis is singular. {AGAIN}") from None
    norms = scaled.norm(dim=0)
    U = torch.where(norms > _LEAST, scaled / norms, 0.0)
    return target.rounded(U.float()).double()


FROD = Family(
    method="FROD",
    parse=by_suffix("frod_lambda_l", "frod_lambda_s_values"),
    update=update,
    label=called("FRoD"),
    fits=fits,
    shared=r"frod_(?:V|s_indices|s_size)\..+",
)
