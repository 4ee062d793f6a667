"""The similarity of one matrix's leading tuned and base directions, entry by entry (paper Figs. 1-2)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spectra.analysis.settings import Settings
from spectra.engine.dense import svd
from spectra.engine.resemblance import cosines
from spectra.loaders.pairing import Pairs
from spectra.loaders.plan import Place
from spectra.metrics.null import expected_similarity
from spectra.text import numbered

LEADING = 64


@dataclass(frozen=True, slots=True)
class SimilarityMap:
    """|cos| of base vector i (rows) with tuned vector j (columns), the leading ones of one matrix.

    values : [min(64, p), min(64, p)]; best : [columns], the largest |cos| over ALL base vectors, so that a
    direction that moved beyond the rows shown is not taken for an intruder; null : expected for chance.
    """

    key: str
    side: str
    values: NDArray[np.float32]
    best: NDArray[np.float32]
    null: float


def similarity_map(pairs: Pairs, place: Place, settings: Settings) -> SimilarityMap:
    """Decompose one matrix and return its map for the first side asked for."""
    pair = pairs.pair(*place)
    side = settings.sides[0]
    base, tuned = svd(pair.base, device=settings.device), svd(pair.tuned(), device=settings.device)
    every = cosines(base, tuned, k=LEADING, side=side).float().numpy()
    null = expected_similarity(base.vectors(side).shape[0], len(every))
    return SimilarityMap(numbered(*place), side, every[:LEADING], every.max(0, initial=0.0), null)
