"""What a weight update is: few, exact structures, one a file, and the pair of a base weight and its update.

Each structure knows its shape, its products and its dense form; where a factored form exists it is
kept, so that the engine never has to form `B @ A` to know its spectrum. Nothing here knows files.
"""

from spectra.updates.dense import Dense
from spectra.updates.elementwise import Elementwise
from spectra.updates.kronecker import Kronecker
from spectra.updates.low_rank import LowRank, nothing
from spectra.updates.multiplied import Blocks, Multiplied
from spectra.updates.pair import Storage, WeightPair
from spectra.updates.rescaled import Rescaled
from spectra.updates.sparse import Sparse
from spectra.updates.stacked import Stacked
from spectra.updates.sum import Sum
from spectra.updates.update import Axis, Factors, Update

__all__ = [
    "Axis",
    "Blocks",
    "Dense",
    "Elementwise",
    "Factors",
    "Kronecker",
    "LowRank",
    "Multiplied",
    "Rescaled",
    "Sparse",
    "Stacked",
    "Storage",
    "Sum",
    "Update",
    "WeightPair",
    "nothing",
]
