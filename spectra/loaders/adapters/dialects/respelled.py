"""A family in another spelling: the same update, its parts under other names and lying otherwise in the file."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import torch

from spectra.errors import MatchError
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.family import Family, Fit, Parsed, Shapes, Target
from spectra.text import show
from spectra.updates import Update

Turn = Callable[[torch.Tensor], torch.Tensor]
Spelling = Mapping[str, tuple[str, Turn]]


def as_it_lies(stored: torch.Tensor) -> torch.Tensor:
    """Return a part as it is stored."""
    return stored


def transposed(stored: torch.Tensor) -> torch.Tensor:
    """Return a part whose file has rows and columns the other way round."""
    return stored.mT


def respelled(family: Family, parse: Callable[[str], Parsed | None], spelling: Spelling) -> Family:
    """Return `family` reading other names: each part's name in the file, with its name here and how to turn it.

    A part that `spelling` has not is read as it is. The shapes of turned parts are had by turning tensors without
    storage, so that they agree with what is read. Raises MatchError for a part that cannot be turned.
    """

    def spelled(part: str) -> tuple[str, Turn]:
        return spelling.get(part, (part, as_it_lies))

    def named(parts: Shapes) -> Shapes:
        return {spelled(part)[0]: shape for part, shape in parts.items()}

    def shaped(parts: Shapes) -> Shapes:
        return {spelled(part)[0]: _shape_after(spelled(part)[1], shape, part) for part, shape in parts.items()}

    def turned(target: Target) -> Target:
        parts = {spelled(part)[0]: spelled(part)[1](tensor) for part, tensor in target.parts.items()}
        return replace(target, parts=parts, initial=turned(target.initial) if target.initial else None)

    def update(target: Target) -> Update:
        return family.update(turned(target))

    def fits(module: str, parts: Shapes, config: AdapterConfig) -> Fit | None:
        return family.fits(module, shaped(parts), config)

    def doubts(module: str, parts: Shapes, config: AdapterConfig) -> list[str]:
        return family.doubts(module, shaped(parts), config)

    return replace(
        family,
        parse=parse,
        update=update,
        label=lambda config, parts: family.label(config, named(parts)),
        rank=lambda parts, config: family.rank(shaped(parts), config),
        fits=fits,
        needs_base=lambda parts, config: family.needs_base(named(parts), config),
        doubts=doubts,
    )


def _shape_after(turn: Turn, shape: tuple[int, ...], part: str) -> tuple[int, ...]:
    try:
        return tuple(turn(torch.empty(shape, device="meta")).shape)
    except (RuntimeError, IndexError):
        raise MatchError(f"{show(part)} has the shape {list(shape)}, which no factor of this kind has.") from None
