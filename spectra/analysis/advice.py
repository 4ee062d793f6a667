"""What would bring an adapter closer to full fine-tuning, leaving out what it already has."""

from collections.abc import Mapping

from spectra.analysis.claims import LARGER, RSLORA, SHUTTLEWORTH, Claim
from spectra.analysis.diagnosis import Diagnosis
from spectra.analysis.side_by_side import full_of, share_of, size_beside
from spectra.text import percent, show

_FEW = 0.05
_USED = 0.8


def advice(name: str, models: Mapping[str, Diagnosis]) -> Claim | None:
    """Return what to change in one of the models compared, with what it stands on. None where nothing has to."""
    model = models[name]
    if not model.summary["measured"]:
        return Claim("No matrix of this model changed or could be measured: there is nothing to judge.")
    if model.summary["method"] == "full fine-tuning" or (share_of(model) or 0.0) < _FEW:
        return None
    return _remedy(name, models)


def _remedy(name: str, models: Mapping[str, Diagnosis]) -> Claim | None:
    summary, info, full = models[name].summary, models[name].info, full_of(models)
    times = size_beside(models[name], models[full]) if full else None
    options, evidence = [], []
    if times is None:
        options.append("a smaller scale")
    elif times > LARGER:
        options.append("a smaller scale or learning rate")
        evidence.append(f"its update is {times:.3g} times as large as {show(full)}'s")
    if info.ranks and (summary["utilisation"] or 0) > _USED:
        options.append(f"a rank above {info.ranks[-1]}")
        evidence.append(f"it uses {percent(summary['utilisation'])} of its rank")
    if info.method == "LoRA":
        options.append("rsLoRA, whose scale does not shrink with rank")
    if info.scalings and max(info.scalings) > 2:
        options.append("alpha = 2r")
    if not options:
        return None
    return Claim(
        f"To come closer to full fine-tuning: {', '.join(options)}.",
        ("; ".join(evidence),) if evidence else (),
        (*_against_rank(name, models), "found on the paper's models; each of these may cost accuracy on the task"),
        (SHUTTLEWORTH, RSLORA),
    )


def _against_rank(name: str, models: Mapping[str, Diagnosis]) -> tuple[str, ...]:
    """Name a model compared that has a higher rank and no fewer intruders: here rank alone did not lower the count."""
    own, share = max(models[name].info.ranks, default=0), share_of(models[name]) or 0.0
    higher = (other for other, model in models.items() if own and max(model.info.ranks, default=0) > own)
    worse = next((other for other in higher if (share_of(models[other]) or 0.0) >= share), None)
    if worse is None:
        return ()
    ours, theirs = models[name].summary, models[worse].summary
    return (
        f"rank alone did not lower the count here: {show(worse)} has a higher rank and "
        f"{theirs['rotated'] + theirs['new']} intruders against {ours['rotated'] + ours['new']} "
        f"({theirs['new']} against {ours['new']} of them new)",
    )
