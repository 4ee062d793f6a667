"""IA3 (arXiv:2205.05638) as LyCORIS has it: `dW = w o W0`, w starting at 0 where PEFT's starts at 1.

w scales the outputs, or with `on_input` the input channels.
"""

import math

from spectra.errors import MatchError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family, Parsed, Shapes, Target, by_suffix, called
from spectra.text import show
from spectra.updates import Dense, Update

_split = by_suffix("weight", "on_input")


def parse(name: str) -> Parsed | None:
    """Split a name of a flattened module. With dots left, `weight` would be the end of any name."""
    found = _split(name)
    return found if found is not None and "." not in found[0] else None


def fits(module: str, parts: Shapes, config: AdapterConfig) -> None:
    """Leave the shape to the base. Raises MatchError when one of the two parts is missing."""
    missing = next((part for part in ("weight", "on_input") if part not in parts), None)
    if missing is not None or math.prod(parts["on_input"]) != 1:
        raise MatchError(f"'{show(module)}': it has no {missing or 'single on_input'}, which says what IA3 scales.")


def update(target: Target) -> Update:
    """Return dW of one module. It has no factors: the base's own, scaled entry by entry without loss."""
    w, W0, layout = target.part("weight").flatten(), target.base(), target.layout
    channels = layout.stored_shape[1] if layout.kind == "kernel" else layout.shape[1]
    by_input = bool(target.part("on_input").item())
    if len(w) != (channels if by_input else len(W0)):
        raise MatchError(
            f"'{show(target.module)}': IA3 has {len(w)} values for the {'inputs' if by_input else 'outputs'} of a "
            f"base weight {list(layout.stored_shape)}."
        )
    return Dense(W0 * (w.repeat_interleave(W0.shape[1] // channels) if by_input else w[:, None]))


IA3_FLAT = Family(
    method="IA3 (LyCORIS)",
    parse=parse,
    update=update,
    label=called("IA3"),
    fits=fits,
    integers=("on_input",),
)
