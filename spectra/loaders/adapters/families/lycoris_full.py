"""Differences stored in full by LyCORIS and by tools that extract updates: `diff` is dW itself, added to the base."""

import math

from spectra.errors import MatchError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix, called, never
from spectra.text import show
from spectra.updates import Dense, Update


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int]:
    """Return the `[out, in]` shape of the difference."""
    shape = parts.get("diff", ())
    if len(shape) < 2:
        raise MatchError(f"'{show(module)}': its diff {list(shape)} is no matrix.")
    return shape[0], math.prod(shape[1:])


def update(target: Target) -> Update:
    """Return dW of one module, entry by entry."""
    return Dense(target.part("diff").flatten(1))


DIFFERENCE = Family(
    method="DIFF",
    parse=by_suffix("diff"),
    update=update,
    label=called("full differences"),
    fits=fits,
    needs_base=never,
)
