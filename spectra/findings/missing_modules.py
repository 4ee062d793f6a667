"""SP110: a kind of module that is tuned in some blocks, and not in others that have it too."""

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from spectra.findings.finding import Evidence, Raised, Rule, Severity
from spectra.text import count, listing, show

if TYPE_CHECKING:
    from spectra.metrics.place import Place

_SHOWN = 4


def _check(evidence: Evidence) -> list[Raised]:
    changed = set(evidence.changed_places)
    kinds = {(place.stack, place.module) for place in changed if place.block is not None}
    missing = [
        place
        for place in evidence.base_places
        if place.block is not None and (place.stack, place.module) in kinds and place not in changed
    ]
    targeted = evidence.targeted_places
    if evidence.info.whole:
        return _raised(evidence, "warning", missing, _NOT_THERE, _CUT)
    if targeted is None:
        return _raised(evidence, "info", missing, _UNKNOWN, _PERHAPS)
    wanted = set(targeted)
    return [
        *_raised(evidence, "warning", [place for place in missing if place in wanted], _LOST, _CUT),
        *_raised(evidence, "info", [place for place in missing if place not in wanted], _CONFIGURED, _MEANT),
    ]


_NOT_THERE = "not in the tuned checkpoint"
_UNKNOWN = "not in the file, and no configuration that is read here says whether that was meant"
_CONFIGURED = "not adapted, as configured"
_LOST = "not in the adapter's file, although its configuration targets this"
_CUT = "Check that the file was saved and copied whole: a cut or merged file often lacks its last blocks."
_PERHAPS = (
    "Nothing to do where only some blocks were trained (MLX trains the last num_layers of them). Otherwise check that "
    "the file was saved and copied whole."
)
_MEANT = "Nothing to do where that was the aim: target_modules and layers_to_transform leave them out."


def _raised(evidence: Evidence, severity: Severity, missing: "list[Place]", what: str, advice: str) -> list[Raised]:
    if not missing:
        return []
    kinds = {(place.stack, place.module) for place in missing}
    blocks = sorted({(place.stack, place.block) for place in missing if place.block is not None})
    these = "matrix that the base has is" if len(missing) == 1 else "matrices that the base has are"
    return [
        Raised(
            severity,
            f"{len(missing)} {these} {what}, while other blocks have their like: {_where(missing, blocks)}.",
            advice,
            [layer for layer in evidence.layers if (layer.place.stack, layer.place.module) in kinds],
            {"missing": len(missing), "blocks": [f"{show(stack)}.{block}" for stack, block in blocks]},
        )
    ]


def _where(missing: "Iterable[Place]", blocks: Collection[tuple[str, int]]) -> str:
    """Name the blocks, and the kinds of module where these are few."""
    modules = sorted({place.module for place in missing})
    where = listing((f"{stack}.{block}" for stack, block in blocks), _SHOWN)
    return (
        f"{listing(modules, _SHOWN)} in {where}"
        if len(modules) <= _SHOWN
        else f"{count(len(modules), 'kind')} in {where}"
    )


MISSING_MODULES = Rule(
    code="SP110",
    name="missing-modules",
    summary="A kind of module that is tuned in some blocks, and not in others that have it too.",
    severities=("warning", "info"),
    meaning="A kind of module (a name without its block number) is tuned in some blocks, and the base has it in other "
    "blocks where nothing is tuned. A warning where the adapter's configuration targets it there (target_modules, "
    "exclude_modules, layers_to_transform, read by PEFT's rules), or where a full checkpoint lacks it; a remark where "
    "the configuration leaves it out, or where there is none to ask.",
    advice="Compare the number of tensors with what was trained, and copy or save the file again. Where only some "
    "blocks were to be trained, there is nothing to do.",
    doubts="Blocks that differ by design are no gap: only what the base itself has is missed, and blocks behind the "
    "number that config.json declares are not counted. A base file may still hold weights that the model's code does "
    "not build.",
    source="PEFT 0.21, LoraConfig: target_modules, exclude_modules, layers_to_transform",
    check=_check,
)
