"""BEFT (arXiv:2509.15974) and LayerNorm tuning (arXiv:2312.11420): only biases and norms are trained.

They have no singular vectors. What is stored in full beside them, a classification head, is read.
"""

from spectra.errors import UnsupportedError
from spectra.loaders.adapters.family import Family, Target, called, never
from spectra.updates import Update


def parse(name: str) -> None:
    """Say that no tensor is part of an adapted matrix."""


def update(target: Target) -> Update:
    """Refuse: there is no module to update."""
    raise UnsupportedError(f"'{target.module}' is no matrix.")


BEFT = Family(
    method="BEFT",
    parse=parse,
    update=update,
    label=called("BEFT"),
    needs_base=never,
    vectors=r".+\.beft_bias(?:\.[^.]+)?",
)
LN_TUNING = Family(
    method="LN_TUNING",
    parse=parse,
    update=update,
    label=called("LayerNorm tuning"),
    needs_base=never,
    vectors=r".+\.ln_tuning_layers\.(?:[^.]+\.)?(?:weight|bias)",
)
