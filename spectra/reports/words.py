"""The sentences that every output shares, so that terminal, page and notebook say the same."""

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from spectra.analysis.claims import Claim
from spectra.analysis.comparison import ModelComparison
from spectra.analysis.diagnosis import Diagnosis
from spectra.analysis.guide import DEFINITION, Cell
from spectra.analysis.ranking import Standing
from spectra.findings.rules import RULES
from spectra.loaders.plan import Skipped, TunedInfo
from spectra.metrics.layer import Layer
from spectra.metrics.place import Placed
from spectra.metrics.ranks import Ranks
from spectra.text import count, listing, numbered, percent, quantity, show, size


def kind(info: TunedInfo) -> str:
    """What kind of update this is: 'LoRA, r = 8, alpha = 16 (scale 2) on q_proj, v_proj'."""
    if not info.ranks:
        return show(info.method)
    scale = f" (scale {_span(info.scalings)})" if info.scalings else ""
    alpha = f", alpha = {_span(info.alphas)}{scale}" if info.alphas else ""
    return f"{info.method}, r = {_span(info.ranks)}{alpha} on {listing(info.targets, 8)}"


def _span(values: Sequence[float]) -> str:
    if not values:
        return "?"
    return f"{values[0]:.4g}" if values[0] == values[-1] else f"{values[0]:.4g} to {values[-1]:.4g}"


def stored(report: Diagnosis) -> str:
    """How large the update is on disk beside its base."""
    parameters, stored_bytes = report.summary["parameters"], report.summary["bytes"]
    share = f", {percent(parameters['share'])} of the base" if parameters["share"] else ""
    return f"{quantity(parameters['tuned'])} parameters{share}, {size(stored_bytes['tuned'])}"


def headline(report: Diagnosis) -> str:
    """The one sentence to take away."""
    summary = report.summary
    if not summary["measured"]:
        if summary["zero_updates"] == summary["matrices"]:
            return f"Nothing changed: the update of all {count(summary['matrices'], 'matrix', 'matrices')} is zero."
        return f"Nothing could be measured: {summary['failed']} of {summary['matrices']} matrices failed."
    real = summary["new"] + summary["rotated"]
    if not real:
        ties = f" ({summary['degenerate']} only reflect ties of the base)" if summary["degenerate"] else ""
        return (
            f"No intruder dimensions{ties}: the leading directions of "
            f"{count(summary['measured'], 'matrix', 'matrices')} are still the base's."
        )
    return (
        f"{real} of {summary['examined']} leading directions ({percent(real / summary['examined'])}) are intruders: "
        f"{summary['new']} new to the base's top space, {summary['rotated']} rotated within it."
    )


def nothing_found(report: Diagnosis) -> str:
    """Say that there is no finding, and of which when not all were looked for."""
    looked_for = report.provenance["looked_for"]
    return "Nothing looks wrong." if len(looked_for) == len(RULES) else f"No finding among {listing(looked_for, 8)}."


def least_similarity(layer: Layer) -> str:
    """The least similarity among a matrix's leading directions, as an interval where it is not exact.

    It lies between the least of the lower ends and the least of the upper ends.
    """
    low = min((value for side in layer.intruders for value in side.similarity), default=None)
    high = min((value for side in layer.intruders for value in side.similarity_bound), default=None)
    if low is None or high is None:
        return ""
    return f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f}"


def chance(report: Diagnosis) -> str:
    """The similarity that a random direction has, over the matrices measured."""
    nulls = sorted(side.null for layer in report.rows for side in layer.intruders if side.similarity)
    if not nulls:
        return "none measured"
    low, high = nulls[0], nulls[-1]
    return f"{low:.2f}" if high - low < 0.005 else f"{low:.2f} to {high:.2f}"


def rank_value(rank: Ranks, name: str) -> str:
    """One of the ranks of an update, with its error bar where it is estimated: '312.4 ± 3.1'."""
    value = getattr(rank, name)
    error = None if rank.error is None else getattr(rank.error, name)
    return f"{_rank(value)} ± {_rank(error)}" if error else _rank(value)


def _rank(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def rank_line(report: Diagnosis) -> str:
    """Intrinsic rank against allotted rank."""
    summary = report.summary
    if summary["effective_rank"] is None:
        return "not measured"
    text = f"effective {summary['effective_rank']:.1f}"
    if summary["allotted_ranks"]:
        text += f" of {_span(summary['allotted_ranks'])} allotted"
        if summary["utilisation"] is not None:
            text += f" ({percent(summary['utilisation'])} used)"
    text += f"; 90 % of the energy in {summary['energy_90']:.0f}; above rounding {_above_rounding(report)}"
    errors = [layer.rank.error for layer in report.rows if layer.ok and layer.rank is not None and layer.rank.error]
    if errors:
        middle = statistics.median(error.effective for error in errors)
        text += f"; {len(errors)} of {summary['measured']} estimated, effective rank ± {middle:.1f}"
    return f"{text} (medians)"


def _above_rounding(report: Diagnosis) -> str:
    middle, packed = report.summary["above_floor"], sum(layer.ok and layer.floor is None for layer in report.rows)
    if middle is None:
        return "unknown, as the weights are stored packed"
    return f"{middle:.0f}" + (f" where known, not in {packed} stored packed" if packed else "")


def size_line(report: Diagnosis) -> str:
    """Size of the update beside its weight."""
    norms = [(layer.norm.ratio, layer) for layer in report.rows if layer.ok and layer.norm is not None]
    if not norms:
        return "no update"
    middle = report.summary["update_ratio"]
    largest, layer = max(norms, key=lambda item: item[0])
    return f"||dW|| / ||W0|| = {middle:.3g} (median), {largest:.3g} at most ({where(layer)})"


def place_and_numbers(found: ModelComparison, standing: Standing) -> tuple[str, str, str, str, str]:
    """A model of a comparison in a line: place, intruders, effective rank, size of the update, share of parameters."""
    share = found.models[standing.name].summary["parameters"]["share"]
    return (
        standing.label,
        f"{standing.intruders} of {standing.examined}"
        + ("" if standing.share is None else f" ({percent(standing.share)})"),
        "–" if standing.effective_rank is None else f"{standing.effective_rank:.1f}",
        "–" if standing.update_ratio is None else f"{standing.update_ratio:.3g}",
        "–" if share is None else percent(share),
    )


def told(found: ModelComparison) -> list[tuple[str, Claim]]:
    """The claims of a comparison, then its advice with the name of its model, each limit where it comes first."""
    every = [("", claim) for claim in found.claims]
    every += [(show(standing.name), standing.advice) for standing in found.standings if standing.advice]
    said: set[str] = set()
    told = []
    for whose, claim in every:
        told.append((whose, replace(claim, limits=tuple(line for line in claim.limits if line not in said))))
        said.update(claim.limits)
    return told


def known_by(cell: Cell) -> str:
    """How a cell of the decision table is known: "measured", "computed", its source, or nothing for a definition."""
    return "" if cell.source == DEFINITION else cell.source if cell.known == "source" else cell.known


def where(layer: Placed) -> str:
    """Name a matrix shortly: 'block 3 self_attn.q_proj'."""
    found = layer.place
    module = numbered(found.module, layer.index)
    return show(module if found.block is None else f"block {found.block} {module}", 60)


def skipped_by_reason(skipped: Sequence[Skipped]) -> list[tuple[str, int, str]]:
    """Group what was left out: (reason, how many, some of the names)."""
    reasons = Counter(item.reason for item in skipped)
    return [
        (show(reason), number, listing([item.key for item in skipped if item.reason == reason], 3))
        for reason, number in reasons.most_common()
    ]
