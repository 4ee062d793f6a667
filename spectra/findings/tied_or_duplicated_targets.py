"""SP109: one stored weight that the model uses more than once, and one update that stands in several places."""

from typing import TYPE_CHECKING

from spectra.findings.finding import Evidence, Raised, Rule, Severity
from spectra.text import count, listing, numbered, show

if TYPE_CHECKING:
    from spectra.loaders.plan import Tied
    from spectra.metrics.layer import Layer

_SHOWN = 3


def _check(evidence: Evidence) -> list[Raised]:
    return [*_tied(evidence), *_same(evidence)]


def _tied(evidence: Evidence) -> list[Raised]:
    there = {layer.key for layer in evidence.layers}
    tied = [one for one in evidence.info.tied if one.key in there]
    if not tied:
        return []
    keys = {one.key for one in tied}
    more = f" and {len(tied) - 1} more" if len(tied) > 1 else ""
    return [
        Raised(
            "warning",
            f"{_story(tied[0])}{more}. Measured is the merged weight; unmerged, each update acts in its module alone.",
            "Keep the adapter unmerged, or untie the weights before merging (tie_word_embeddings = false and a copy of "
            "the weight). PEFT's ensure_weight_tying trains one update for all modules of a tied weight.",
            [layer for layer in evidence.layers if layer.key in keys],
            {"tied": len(tied), "adapted": list(tied[0].adapted), "others": list(tied[0].others)},
        )
    ]


def _story(tied: "Tied") -> str:
    names = f"'{show(tied.key)}' is stored once and adapted as {listing(tied.adapted, _SHOWN)}"
    return f"{names}, and {listing(tied.others, _SHOWN)} uses it too" if tied.others else names


def _same(evidence: Evidence) -> list[Raised]:
    """Find updates equal to the last bit of their norms. Where the bases are equal too, one weight was stored twice."""
    alike: dict[tuple[object, ...], list[Layer]] = {}
    for layer in evidence.measured:
        if layer.norm is not None:
            alike.setdefault((layer.shape, layer.norm.update, layer.norm.update_spectral), []).append(layer)
    groups = [(_is_one_base(rows), rows) for rows in alike.values() if len(rows) > 1]
    twice, copied = ([rows for one_base, rows in groups if one_base == wanted] for wanted in (True, False))
    return [
        *_raised("info", twice, "The same weight is stored", "Nothing to do: a tied weight that was saved as several."),
        *_raised(
            "warning",
            copied,
            "The same update stands",
            "Training does not do this: look for a file that was copied, expanded or converted by hand.",
        ),
    ]


def _is_one_base(rows: "list[Layer]") -> bool:
    return len({layer.norm.base for layer in rows if layer.norm is not None}) == 1


def _raised(severity: Severity, groups: "list[list[Layer]]", what: str, advice: str) -> list[Raised]:
    if not groups:
        return []
    rows = [layer for group in groups for layer in group]
    names = listing((numbered(layer.key, layer.index) for layer in groups[0]), _SHOWN)
    more = f"; {count(len(groups) - 1, 'more such group')}" if len(groups) > 1 else ""
    text = f"{what} in {len(groups[0])} places, bit for bit: {names}{more}."
    return [Raised(severity, text, advice, rows, {"groups": len(groups), "matrices": len(rows)})]


TIED_OR_DUPLICATED_TARGETS = Rule(
    code="SP109",
    name="tied-or-duplicated-targets",
    summary="One stored weight that the model uses more than once, and one update that stands in several places.",
    severities=("warning", "info"),
    meaning="Either an adapter changes a weight that is stored once and used by several modules (input embedding and "
    "output head), under one or more of their names: merged, every one of them gets every update. Or two matrices of "
    "different bases have the same update, bit for bit. A remark where the bases are equal too: then one weight was "
    "saved twice.",
    advice="For tied weights: serve unmerged, or untie before merging, or train with one update for all of them. For "
    "equal updates: find out what wrote the file.",
    doubts="That a head is tied is known from config.json (tie_word_embeddings) or from the stored tensors, and "
    "not seen where neither says so. Equal updates are told by the Frobenius and the spectral norm of dW, all bits of "
    "them.",
    source="PEFT on tied weights: github.com/huggingface/peft issue 2777; norms equal in float64",
    check=_check,
)
