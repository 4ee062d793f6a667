"""What a comparison of models says, claim by claim: what it stands on, and what speaks against it.

Numbers measured here and findings of others are told apart, and every claim carries its limits: whether intruder
dimensions cause forgetting is disputed, and this comparison measures no forgetting.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from spectra.analysis.diagnosis import Diagnosis
from spectra.analysis.side_by_side import EQUAL, FEWER, MORE, OPEN, LineUp, SideBySide, Tally
from spectra.text import count, listing, percent, show

_NAMED, _LINES = 4, 4
LARGER = 1.25  # a ratio of sizes from which on size may explain what differs
_ALIKE = 1.1  # ranks whose ratio is below it are called alike


@dataclass(frozen=True, slots=True)
class Source:
    """A work that a claim or its limits stand on, with its address."""

    name: str
    url: str


SHUTTLEWORTH = Source("Shuttleworth et al., arXiv:2410.21228", "https://arxiv.org/abs/2410.21228")
REVIEW = Source("the review of that paper, OpenReview xp7B8rkh7L", "https://openreview.net/forum?id=xp7B8rkh7L")
XIE = Source("Xie, arXiv:2607.23711", "https://arxiv.org/abs/2607.23711")
BIDERMAN = Source("Biderman et al., arXiv:2405.09673", "https://arxiv.org/abs/2405.09673")
RSLORA = Source("Kalajdzievski, arXiv:2312.03732", "https://arxiv.org/abs/2312.03732")


@dataclass(frozen=True, slots=True)
class Claim:
    """One sentence, what it stands on, and how far it goes.

    text : the claim. evidence : what was measured here, or what a source found. limits : what speaks against the
    claim, or what it does not say. sources : of the idea, the evidence and the limits. numbers : by model, where the
    claim is about what was measured. All text is safe to show; a name of a model stands in it as it is shown.
    """

    text: str
    evidence: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    numbers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def claims(models: Mapping[str, Diagnosis], lined_up: LineUp | None) -> tuple[Claim, ...]:
    """Say what differs between models, and what does not follow from it; nothing where nothing was measured."""
    if lined_up is None:
        return ()
    pairs, reference = lined_up.pairs, lined_up.reference
    found = [_apart(lined_up.apart, reference)] if lined_up.apart else []
    if pairs:
        found += [_intruders(pairs, models[reference].provenance), _rank(pairs), _size(pairs)]
    return (*found, _FORGETTING, _runs(sum(model.summary["measured"] > 0 for model in models.values())))


def _apart(names: Sequence[str], reference: str) -> Claim:
    return Claim(f"{listing(names, _NAMED)}: no matrix in common with {show(reference)}, so that nothing compares.")


def _grouped(pairs: Sequence[SideBySide], of: Callable[[SideBySide], str], phrases: Mapping[str, str]) -> str:
    """Name the models of each kind: 'a, b: more intruders than full; c: as many as full'."""
    parts = []
    for kind, phrase in phrases.items():
        names = [pair.name for pair in pairs if of(pair) == kind]
        if names:
            parts.append(f"{listing(names, _NAMED)}: {phrase.format(reference=show(pairs[0].reference))}")
    return "; ".join(parts) + "."


def _lines(pairs: Sequence[SideBySide], line: Callable[[SideBySide], str]) -> tuple[str, ...]:
    """One line of evidence a model; of a fleet the first few, and how many more the JSON holds."""
    shown = tuple(f"{show(pair.name)}: {line(pair)}" for pair in pairs[:_LINES])
    rest = len(pairs) - _LINES
    return (*shown, f"and {count(rest, 'model')} more, in the JSON") if rest > 0 else shown


def _numbers(pairs: Sequence[SideBySide]) -> dict[str, dict[str, Any]]:
    return {pair.name: {key: value for key, value in asdict(pair).items() if key != "name"} for pair in pairs}


def _intruders(pairs: Sequence[SideBySide], options: Mapping[str, Any]) -> Claim:
    def line(pair: SideBySide) -> str:
        ours, theirs = pair.intruders
        shares = f"{percent(ours / pair.examined)} and {percent(theirs / pair.examined)}"
        return (
            f"{ours} against {theirs} of {pair.examined} directions ({shares}) in the "
            f"{count(pair.matrices, 'matrix', 'matrices')} both change; {_held(pair.order, pair.over_epsilon)} "
            f"thresholds, {_held(pair.order, pair.over_k)} values of k"
        )

    asked = f"(k = {options['k']}, epsilon = {options['epsilon']:g}, {options['side']})"
    limits = ["a count moves with epsilon and k, and saturates; in a large matrix a random direction counts too"]
    if any(pair.ties for pair in pairs):
        limits.append("ties of the base are left out of the counts, not of the orders over thresholds and k")
    phrases = {MORE: "more intruders than", FEWER: "fewer intruders than", EQUAL: "as many intruders as"}
    return Claim(
        _grouped(
            pairs,
            lambda pair: pair.order,
            {order: f"{phrase} {{reference}} {asked}" for order, phrase in phrases.items()},
        ),
        _lines(pairs, line),
        tuple(limits),
        (SHUTTLEWORTH,),
        _numbers(pairs),
    )


def _held(order: str, tally: Tally) -> str:
    """Say at how many settings an order holds: 'more at 17 of 19 (equal at 2)'."""
    counts = {MORE: tally.more, EQUAL: tally.equal, FEWER: tally.fewer, OPEN: tally.open}
    rest = ", ".join(f"{word} at {number}" for word, number in counts.items() if number and word != order)
    return f"{order} at {counts[order]} of {tally.total}" + (f" ({rest})" if rest else "")


def _rank(pairs: Sequence[SideBySide]) -> Claim:
    def line(pair: SideBySide) -> str:
        ours, theirs = pair.effective
        kept, other = pair.above_floor
        above = "an unknown number of" if kept is None or other is None else f"{kept:.0f} against {other:.0f}"
        wide = f" (estimated, ± {pair.error[0]:.1f} and ± {pair.error[1]:.1f})" if any(pair.error) else ""
        return (
            f"effective rank {ours:.1f} against {theirs:.1f}{wide}; {above} singular values "
            f"above rounding (medians over the {count(pair.matrices, 'matrix', 'matrices')} both change)"
        )

    limits = ["directions are counted, not what was learnt: rank did not explain the paper's models (sec. 3, App. H)"]
    values = [pair for one in pairs for pair in zip(one.above_floor, one.effective, strict=True)]
    if any(above is not None and above < effective for above, effective in values):
        limits.append("where fewer values lie above rounding than the effective rank says, rounding is part of it")
    return Claim(
        _grouped(
            pairs,
            _rank_order,
            {
                MORE: "an update of higher rank than {reference}'s",
                FEWER: "an update of lower rank than {reference}'s",
                EQUAL: "an update of about the rank of {reference}'s",
            },
        ),
        _lines(pairs, line),
        tuple(limits),
        (BIDERMAN, SHUTTLEWORTH),
    )


def _rank_order(pair: SideBySide) -> str:
    ours, theirs = pair.effective
    if abs(ours - theirs) <= sum(pair.error) or max(ours, theirs) < _ALIKE * min(ours, theirs):
        return EQUAL
    return MORE if ours > theirs else FEWER


def _size(pairs: Sequence[SideBySide]) -> Claim:
    def line(pair: SideBySide) -> str:
        times = f"||dW|| is {pair.size:.3g} times {show(pair.reference)}'s over these matrices"
        if pair.equal is None:
            return times + (f"; at scale {1 / pair.size:.2g} it would be as large" if pair.size >= LARGER else "")
        ours, theirs = pair.equal.intruders
        failed = f" ({count(pair.equal.failed, 'matrix', 'matrices')} failed)" if pair.equal.failed else ""
        return (
            f"{times}; with {show(pair.equal.scaled)} at scale {pair.equal.scale:.2g}, {ours} against {theirs}{failed}"
        )

    measured = all(pair.equal for pair in pairs)
    limits = (
        "size and intruders come together: with the learning rate in the paper (Fig. 7), with strength in Xie's law",
        "at equal norm an update of lower rank has larger singular values",
    )
    return Claim(
        _grouped(pairs, _at_equal_size, _EQUAL_SIZE) if measured else _grouped(pairs, _explained, _EXPLAINED),
        _lines(pairs, line),
        limits if measured else (*limits, "not counted at equal size: --equal-size does"),
        (SHUTTLEWORTH, XIE),
    )


_EQUAL_SIZE = {
    "stays": "most of the difference from {reference} in intruders stays at equal size",
    "shrinks": "most of the difference from {reference} in intruders is gone at equal size",
    "gone": "the difference from {reference} in intruders is gone at equal size",
    "appears": "a difference from {reference} in intruders at equal size alone",
    EQUAL: "no difference from {reference} in intruders, at equal size neither",
}
_EXPLAINED = {
    "larger": "the larger update and more intruders than {reference}: size alone may explain them",
    "smaller": "the smaller update and no more intruders than {reference}: size alone may explain that",
    "not": "size does not explain the difference from {reference}",
    EQUAL: "no difference from {reference} in intruders that size would have to explain",
}


def _at_equal_size(pair: SideBySide) -> str:
    """What becomes of the difference in intruders where both updates have one size."""
    before, after = (ours - theirs for ours, theirs in (pair.intruders, (pair.equal or pair).intruders))
    if before == 0:
        return "appears" if after else EQUAL
    if before * after <= 0:
        return "gone"
    return "shrinks" if abs(after) < abs(before) / 2 else "stays"


def _explained(pair: SideBySide) -> str:
    """Whether the larger of two updates is the one with more intruders; one too small to have any shows nothing."""
    if pair.order == MORE:
        return "larger" if pair.size >= LARGER else "not"
    if pair.size <= 1 / LARGER:
        return "smaller"
    return "not" if pair.order == FEWER else EQUAL


# Read for this: the paper (v3) with its tables 3 and 4 and App. N, the discussion of its review, the abstract of Xie.
_FORGETTING = Claim(
    "What this means for forgetting is disputed, and nothing here measures it.",
    (
        "for: scaling down each matrix's top intruder took forgetting back: 33.3 % of it for 0.1 % of the accuracy at "
        "r = 256, but 46.5 % for 15.0 % at r = 16 (the paper's tables 3 and 4, MetaMath, factor 0.3)",
        "for: at equal norm, forgetting came with the layers above the threshold (Xie)",
        "against: shrinking the whole update gave the paper's authors a similar trade-off, and their LoRA's was about "
        "16 times as large as full fine-tuning's (its review)",
    ),
    (
        "few intruders are no proof of little forgetting: the paper's full fine-tunes had hardly any and forgot more "
        "than LoRA (sec. 4, Fig. 6)",
        "to know, measure the loss on text like the base's own",
    ),
    (SHUTTLEWORTH, REVIEW, XIE),
)


def _runs(measured: int) -> Claim:
    return Claim(
        "Each model is one training run: another seed or learning rate may give other numbers.",
        (f"{count(measured, 'model')}, known by the files alone: not by data, steps or accuracy on the task",),
        (
            "the learning rate and alpha moved the paper's counts (sec. 4), the adapter's seed did not (App. N): "
            "compare models that do the task equally well",
        ),
        (SHUTTLEWORTH,),
    )
