"""Two models at the size of the smaller update: the control for whether size alone makes intruders.

A larger update has more intruders whatever method made it. Scaling the larger one down to the norm of the smaller,
as `spectra sweep` scales, leaves what its directions do.
"""

from collections.abc import Mapping
from dataclasses import replace

from spectra.analysis.diagnosis import Diagnosis
from spectra.analysis.settings import Progress, Settings
from spectra.analysis.side_by_side import EqualSize, SideBySide, real_intruders, shared_rows
from spectra.analysis.sweep import follow, require_scales
from spectra.loaders.pairing import Pairs
from spectra.text import numbered


def at_equal_size(
    pair: SideBySide,
    models: Mapping[str, Diagnosis],
    opened: Mapping[str, Pairs],
    settings: Settings,
    progress: Progress | None = None,
) -> SideBySide:
    """Return a pair of models with their intruders where both updates have one size.

    The larger update is scaled by one factor in all matrices, so that its norm over the matrices that both change is
    the smaller's; the smaller's counts are those of its rows. settings : of a method that a sweep takes. Costs what a
    sweep at one scale does.
    """
    larger, at = (pair.name, 0) if pair.size >= 1 else (pair.reference, 1)
    scale = min(pair.size, 1 / pair.size)
    common = shared_rows(models[pair.name], models[pair.reference])
    counts, failed = [0, 0], 0
    for done, rows in enumerate(common):
        if progress is not None:
            progress(done, len(common), numbered(rows[0].key, rows[0].index))
        larger_pair = opened[larger].pair(rows[at].key, rows[at].index)
        curve = follow(larger_pair, require_scales([scale]), settings, search=False)
        if not curve.ok:
            failed += 1
            continue
        counts[at] += curve.real[curve.scales.index(scale)]
        counts[1 - at] += real_intruders([rows[1 - at]])
    return replace(pair, equal=EqualSize(larger, scale, (counts[0], counts[1]), failed))
