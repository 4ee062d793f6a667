"""What a method draws again from a seed of its configuration when its file is loaded, as PEFT draws it on the CPU."""

import torch

from spectra.errors import FormatError, MatchError
from spectra.loaders.adapters.config import CONFIG_NAME, AdapterConfig
from spectra.loaders.adapters.family import Target
from spectra.text import show

DRAWN_AGAIN = "what the file leaves out is drawn again from its seed, as PEFT draws it"


def seed_of(config: AdapterConfig, name: str) -> int:
    """Return a seed of the configuration. Raises FormatError where it is no whole number of 64 bits."""
    seed = config.raw.get(name)
    if isinstance(seed, bool) or not isinstance(seed, int) or not -(2**63) <= seed < 2**63:
        raise FormatError(f"{CONFIG_NAME}: {name} is {show(repr(seed), 40)}; it must be a whole number.")
    return seed


def generator_of(seed: int) -> torch.Generator:
    """Return a generator that starts at a seed."""
    return torch.Generator().manual_seed(seed)


def places(target: Target, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows and columns of `count` different entries of the `[out, in]` matrix, the first of a permutation."""
    m, n = target.shape
    if count > m * n:
        raise MatchError(f"'{show(target.module)}': {count} values for the {m * n} entries of a matrix {[m, n]}.")
    flat = torch.randperm(m * n, generator=generator_of(seed))[:count]
    return flat // n, flat % n
