"""FineGates (arXiv:2412.12951): the rows and columns of W0 scaled by gates, some of them shut.

`W' = diag(r) W0 diag(c)`, a gate `clamp(tanh(g) + 1/2, 0, 1)` of its stored number g. The method is in no release of
PEFT; this is the definition of the code that was proposed for it (huggingface/peft, 517c1c247b3a).
"""

import torch

from spectra.errors import MatchError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family, Shapes, Target, by_suffix, called
from spectra.text import listing, show
from spectra.updates import Rescaled, Update, nothing


def notes(config: AdapterConfig) -> tuple[str, ...]:
    """Say where the definition comes from."""
    return ("FineGates is in no release of PEFT: its gates are read as the code proposed for it defines them",)


def fits(module: str, parts: Shapes, config: AdapterConfig) -> tuple[int, int]:
    """Return the `[out, in]` shape of the gates."""
    rows, columns = parts.get("finegates_rows"), parts.get("finegates_columns")
    if rows is None or columns is None or len(rows) != 1 or len(columns) != 1:
        raise MatchError(f"'{show(module)}': its gates of rows or columns are missing ({listing(parts)} is there).")
    return rows[0], columns[0]


def update(target: Target) -> Update:
    """Return W0 with both its sides scaled, less W0."""
    rows, columns = (_gates(target.part(f"finegates_{side}")) for side in ("rows", "columns"))
    base = target.base()
    return Rescaled(base, Rescaled(base, nothing(target.shape, base), columns, axis="columns"), rows)


def _gates(stored: torch.Tensor) -> torch.Tensor:
    return (torch.tanh(stored) + 0.5).clamp(0, 1)


FINEGATES = Family(
    method="FINEGATES",
    parse=by_suffix("finegates_(?:rows|columns)"),
    update=update,
    label=called("FineGates"),
    fits=fits,
    notes=notes,
)
