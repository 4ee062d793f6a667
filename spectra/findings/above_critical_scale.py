"""SP205: the adapter's scale lies above the one at which the law of the threshold predicts intruders, and has them."""

import statistics

from spectra.findings.finding import Evidence, Raised, Rule
from spectra.findings.intruder_counts import intruder_counts
from spectra.text import count, percent

_AGREES = 0.5  # of the matrices: a law that is wrong about most of them is not quoted
_KNOWN = 0.5  # of the matrices: the certified path leaves to the exact one, which the law needs, no fair sample


def _check(evidence: Evidence) -> list[Raised]:
    counted = intruder_counts(evidence)
    having = set(counted.rows)
    judged = [(layer, layer.threshold.critical) for layer, _ in counted.sides if layer.threshold is not None]
    above = [(layer, scale) for layer, scale in judged if scale < 1 and layer in having]
    right = sum((scale < 1) == (layer in having) for layer, scale in judged)
    telling = len(judged) >= _KNOWN * len(counted.sides) and right > _AGREES * len(judged)
    if not evidence.is_adapter or not above or not telling:
        return []
    scales = [scale for _, scale in above]
    return [
        Raised(
            "info",
            f"In {len(above)} of {count(len(judged), 'matrix', 'matrices')} the law of the threshold predicts the "
            f"first intruder below this scale (at {min(scales):.2g} of it and above, median "
            f"{statistics.median(scales):.2g}), and at this scale there are some. Whether there "
            f"are any here it tells right for {percent(right / len(judged))} of the matrices.",
            "`spectra sweep` measures the scale, matrix by matrix, also where intruders have gone again at this "
            "scale; it judges the law by the scale predicted, within a factor of 2 on most. A smaller alpha has fewer "
            "intruders, and less of what was learnt: measure both.",
            [layer for layer, _ in above],
            {
                "above": len(above),
                "judged": len(judged),
                "agreement": right / len(judged),
                "least_critical": min(scales),
                "median_critical": statistics.median(scales),
            },
        )
    ]


ABOVE_CRITICAL_SCALE = Rule(
    code="SP205",
    name="above-critical-scale",
    summary="The adapter's scale lies above the one from which the threshold law predicts intruders, and has them.",
    severities=("info",),
    meaning="The law of the threshold predicts, from the singular values of W0 and the spectral norm of dW alone, the "
    "scale at which the strongest direction of dW enters the top k of W. In these matrices the adapter's own scale is "
    "above it and intruders are there, as measured. Judged of adapters only, where all singular values of the base are "
    f"known; only if that is so of {percent(_KNOWN)} of the matrices at least, and the law is right about more than "
    f"{percent(_AGREES)} of those: the share is said.",
    advice="Run `spectra sweep` to measure the scale of each matrix. Lower alpha to the smallest critical scale if the "
    "intruders are not wanted, and measure what that costs.",
    doubts="The law takes dW as isotropic to W0 and speaks of the mean. It was published as within a factor of 2 on "
    "82 % of 9,840 layers. Measured here against the measured critical scale of 166 matrices of trained models it was "
    "within that on 98 %, and 0.72 to 1.54 of it on eight of ten. The count does not grow steadily with the scale: a "
    "smaller one can have more.",
    source="Xie, arXiv:2607.23711; Benaych-Georges and Nadakuditi 2012, J. Multivariate Anal. 111, Theorem 2.8",
    check=_check,
)
