"""Trainable tokens (PEFT's TRAINABLE_TOKENS, and `trainable_token_indices` of LoRA): rows of the embedding replaced.

The stored rows are the new ones, whatever their name says: `dW[token] = row - W0[token]`, all other rows zero. Which
tokens they are stands in the configuration alone. `dW = B A`, of the rank of the number of tokens, B selecting rows.
"""

from collections.abc import Mapping
from typing import Any

import torch

from spectra.errors import FormatError, MatchError, UnsupportedError
from spectra.loaders.adapters.config import CONFIG_NAME, AdapterConfig
from spectra.loaders.adapters.family import Family, Parsed, Shapes, Target, by_suffix, called
from spectra.text import show
from spectra.updates import Dense, LowRank, Update

_ROWS = "trainable_tokens_delta"
_stored = by_suffix(_ROWS)


def parse(name: str) -> Parsed | None:
    """Split a name into module, part and adapter; LoRA wraps the embedding in a `token_adapter`."""
    found = _stored(name)
    return found and (found[0].removesuffix(".token_adapter"), *found[1:])


def rank(parts: Shapes, config: AdapterConfig) -> int:
    """Return the number of tokens."""
    return parts[_ROWS][0]


def fits(module: str, parts: Shapes, config: AdapterConfig) -> None:
    """Raise MatchError where the configuration names another number of tokens; the shape is that of the base."""
    tokens, shape = tokens_of(module, config), parts[_ROWS]
    if len(shape) != 2 or shape[0] != len(tokens):
        raise MatchError(f"'{show(module)}': {CONFIG_NAME} names {len(tokens)} tokens, the rows are {list(shape)}.")


def update(target: Target) -> Update:
    """Return the rows' differences, in factors where there are fewer tokens than dimensions."""
    tokens, base = torch.tensor(tokens_of(target.module, target.config)), target.base()
    rows = target.part(_ROWS)
    if rows.shape[1] != base.shape[1]:
        raise MatchError(f"'{show(target.module)}': rows of {rows.shape[1]} entries, the base has {base.shape[1]}.")
    if int(tokens.max()) >= len(base):
        raise UnsupportedError(
            f"'{show(target.module)}': token {int(tokens.max())} is trained, and the base has {len(base)} rows: its "
            "vocabulary was resized before training. Give the base with the vocabulary it was trained with."
        )
    difference = rows - base[tokens]
    if len(tokens) >= min(base.shape):
        return Dense(torch.zeros_like(base).index_copy(0, tokens, difference))
    selected = base.new_zeros(len(base), len(tokens))
    selected[tokens, torch.arange(len(tokens))] = 1
    return LowRank(selected, difference)


def tokens_of(module: str, config: AdapterConfig) -> list[int]:
    """Return the tokens that the configuration names for a module, in the order of the stored rows."""
    name = "token_indices" if config.method == "TRAINABLE_TOKENS" else "trainable_token_indices"
    given: Any = config.raw.get(name)
    if isinstance(given, Mapping):
        given = next((given[key] for key in given if module == key or module.endswith(f".{key}")), None)
    if not (isinstance(given, list) and given and all(type(token) is int and 0 <= token < 2**31 for token in given)):
        raise FormatError(f"{CONFIG_NAME}: {name} lists no tokens for '{show(module)}', and the file has rows for it.")
    if len(set(given)) < len(given):
        raise FormatError(f"{CONFIG_NAME}: {name} lists a token twice for '{show(module)}'.")
    return given


TOKENS = Family(
    method="TRAINABLE_TOKENS",
    parse=parse,
    update=update,
    label=called("trainable tokens"),
    rank=rank,
    fits=fits,
)
