"""The phase curve of a model: how many directions of the update lead, and how alike the rest stay, by scale."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from spectra.analysis.sweep import ModelSweep
from spectra.plots.elements import PLAIN, legend, nothing, words
from spectra.plots.style import ALARM, CATEGORIES, INK, MUTED, SINGLE, SMALL, figure_of, new_axes

KINDS = {"new": ALARM, "rotated": CATEGORIES[4], "degenerate": "#BBBBBB"}
_FEW, _MANY = 0.5, 0.08  # opacity of one matrix's line among one and among very many


def phase_curve(sweep: ModelSweep) -> Figure:
    """Draw the intruders of all matrices against the scale of the update, and below it the similarities.

    How to read: left of the scale at which the upper curve leaves zero, the update only bends what the base knew;
    the dashed line is the model as trained. In the lower panel each thin line is the least similar leading direction
    of one matrix: where it falls below epsilon, that matrix has an intruder.

    Parameters
    ----------
    sweep : ModelSweep

    Returns
    -------
    Figure with two axes, the counts and the similarities.

    Notes
    -----
    Intruders are counted as the paper counts them and stacked by kind: new to the base's top space, rotated within
    it, or degenerate (explained by a tie of the base).

    References
    ----------
    Shuttleworth et al. 2024, arXiv:2410.21228, Definition 3.1; Xie, arXiv:2607.23711.
    """
    counts, likeness = new_axes(SINGLE, 3.9, rows=2, columns=1)
    if not sweep.measured:
        nothing(likeness, "")
        return figure_of(nothing(counts, "no matrix was swept"))
    _counts(counts, sweep)
    _similarities(likeness, sweep)
    for ax in (counts, likeness):
        ax.set_xlim(sweep.scales[0], sweep.scales[-1])
        ax.axvline(1, color=INK, linewidth=0.7, linestyle=(0, (4, 2)), zorder=3)
    counts.tick_params(labelbottom=False)
    return figure_of(counts)


def _counts(ax: Axes, sweep: ModelSweep) -> None:
    heights = {kind: sweep.total(kind) for kind in KINDS}
    there = [kind for kind, height in heights.items() if any(height)]
    areas = ax.stackplot(
        sweep.scales, *(heights[kind] for kind in there), colors=[KINDS[kind] for kind in there], linewidth=0
    )
    top = max(max(sweep.total("count")), 1)
    ax.set_ylim(0, top * 1.08)
    ax.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    words(ax, y=f"intruders of {sweep.examined:,}")
    ax.annotate(
        "as trained", (1, top * 1.08), xytext=(-3, -2), textcoords="offset points", ha="right", va="top",
        fontsize=SMALL, color=MUTED, **PLAIN,
    )  # fmt: skip
    legend(ax, areas, there, "Intruders by scale of the update")


def _similarities(ax: Axes, sweep: ModelSweep) -> None:
    rows = sweep.measured
    for row in rows:
        ax.plot(sweep.scales, row.least_similarity(), color=CATEGORIES[0], linewidth=0.5, alpha=_opacity(len(rows)))
    (least,) = ax.plot([], [], color=CATEGORIES[0], linewidth=0.8, alpha=0.6)
    (median,) = ax.plot(sweep.scales, [median for _, median in sweep.similarity()], color=INK, linewidth=1.4)
    epsilon = sweep.provenance["epsilon"]
    ax.axhline(epsilon, color=ALARM, linewidth=0.8, linestyle="--", zorder=3)
    ax.annotate(
        f"ε = {epsilon:g}", (sweep.scales[-1], epsilon), xytext=(0, 2), textcoords="offset points", ha="right",
        va="bottom", fontsize=SMALL, color=ALARM, **PLAIN,
    )  # fmt: skip
    ax.set_ylim(0, 1.02)
    words(ax, x="scale s of the update, W₀ + s ΔW", y="similarity |cos|")
    legend(ax, [median, least], ["median of all directions", "least of one matrix"], "")


def _opacity(lines: int) -> float:
    return float(np.clip(_FEW * (8 / max(lines, 8)) ** 0.5, _MANY, _FEW))
