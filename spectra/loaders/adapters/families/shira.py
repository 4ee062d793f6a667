"""SHiRA (arXiv:2406.13175): an update of few entries, stored with their rows and columns."""

from spectra.errors import MatchError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix, called, never
from spectra.text import listing, show
from spectra.updates import Sparse, Update


def fits(module: str, parts: Shapes, config: AdapterConfig) -> None:
    """Raise MatchError where values and places disagree; the shape is that of the base."""
    values, index = parts.get("shira_weight"), parts.get("shira_indices")
    if values is None or index is None:
        raise MatchError(f"'{show(module)}': its values or their places are missing ({listing(parts)} is there).")
    if index != (2, *values):
        raise MatchError(f"'{show(module)}': {list(index)} places for {list(values)} values.")


def update(target: Target) -> Update:
    """Return the entries as they are; PEFT scales them by 1. On Windows it stores the places as floats."""
    rows, columns = target.parts["shira_indices"].long()
    return Sparse(rows, columns, target.part("shira_weight"), target.shape)


SHIRA = Family(
    method="SHIRA",
    parse=by_suffix("shira_weight", "shira_indices"),
    update=update,
    label=called("SHiRA"),
    fits=fits,
    needs_base=never,
    integers=("shira_indices",),
)
