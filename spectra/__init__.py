"""Spectral analysis of weight updates: what did fine-tuning do to my weights?

The names in `__all__` are the public contract. They are imported when first used, so that the
command line starts without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spectra.api import compare as compare
    from spectra.api import diagnose as diagnose
    from spectra.api import fill_base_cache as fill_base_cache
    from spectra.api import guide as guide
    from spectra.api import insertions as insertions
    from spectra.api import overlap as overlap
    from spectra.api import sweep as sweep
    from spectra.engine.decomposition import SVD as SVD
    from spectra.loaders.pairing import Pairs as Pairs
    from spectra.loaders.pairing import open_pairs as open_pairs
    from spectra.metrics.layer import Layer as Layer
    from spectra.results import Comparison as Comparison
    from spectra.results import Overlap as Overlap
    from spectra.results import Report as Report
    from spectra.results import Sweep as Sweep
    from spectra.updates import Dense as Dense
    from spectra.updates import LowRank as LowRank
    from spectra.updates import Rescaled as Rescaled
    from spectra.updates import WeightPair as WeightPair

__version__ = "0.1.0"

_HOMES = {
    "Comparison": "spectra.results",
    "Overlap": "spectra.results",
    "Report": "spectra.results",
    "Sweep": "spectra.results",
    "compare": "spectra.api",
    "diagnose": "spectra.api",
    "fill_base_cache": "spectra.api",
    "guide": "spectra.api",
    "insertions": "spectra.api",
    "overlap": "spectra.api",
    "sweep": "spectra.api",
    "SVD": "spectra.engine.decomposition",
    "Pairs": "spectra.loaders.pairing",
    "open_pairs": "spectra.loaders.pairing",
    "Layer": "spectra.metrics.layer",
    "Dense": "spectra.updates",
    "LowRank": "spectra.updates",
    "Rescaled": "spectra.updates",
    "WeightPair": "spectra.updates",
}
__all__ = ["__version__", "errors", *_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in ("errors", "testing"):
        return import_module(f"spectra.{name}")
    raise AttributeError(f"module 'spectra' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted(__all__)
