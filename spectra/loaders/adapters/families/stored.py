"""What the stored shapes of a module's parts must be, for every family alike. Torch-free."""

from spectra.errors import MatchError
from spectra.loaders.adapters.family import Shapes
from spectra.text import listing, show


def shape_of(module: str, parts: Shapes, name: str, dims: int = 2) -> tuple[int, ...]:
    """Return the stored shape of a part. Raises MatchError where it is missing or has other than `dims` dimensions."""
    if name not in parts:
        raise MatchError(f"'{show(module)}': its {name} is missing ({listing(parts)} is there).")
    if len(parts[name]) != dims:
        raise MatchError(f"'{show(module)}': its {name} is {list(parts[name])}, and must have {dims} dimensions.")
    return parts[name]


def disagreement(module: str, parts: Shapes) -> MatchError:
    """Return the error that names every part of a module with its shape, because they do not fit together."""
    shapes = listing((f"{name} {list(shape)}" for name, shape in parts.items()), 9)
    return MatchError(f"'{show(module)}': its tensors disagree on a size: {shapes}.")


def unfit(module: str, name: str, shape: tuple[int, ...], base: tuple[int, ...]) -> MatchError:
    """Return the error that a part does not fit the base weight, stored as `base`."""
    return MatchError(
        f"'{show(module)}': its {name} is {list(shape)} and the base weight {list(base)}. "
        "Is this the base it was trained on?"
    )
