"""Match the tensor names of a tuned model to those of its base, without building either model.

Two files of one model differ by a prefix at most: a part in front (`bert.`, `model.`,
`base_model.model.`) is there in one and not in the other. The rule that matches the most names is
taken for all of them, names as they are before any other; two rules that match equally well are an
ambiguity, never a guess. What torch's own wrappers put into a name is no part of it.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from spectra.errors import MatchError
from spectra.text import listing

TIED_HEADS = (
    "lm_head", "lm_head.decoder", "embed_out", "predictions.decoder", "output_projection", "vocab_projector",
    "generator_lm_head",
)  # fmt: skip
INPUT_EMBEDDINGS = (
    "embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "shared", "tokens_embed",
    "token_embedding",
)  # fmt: skip
_WRAPPERS = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
_DEPTH, _MOST = 3, 128


def plain(name: str) -> str:
    """Return a name without the parts that torch.compile, FSDP and activation checkpointing add."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


@dataclass(frozen=True, slots=True)
class Prefix:
    """Strip one prefix, add another. The identity is `Prefix("", "")`."""

    strip: str
    add: str

    def __call__(self, name: str) -> str:
        return self.add + name.removeprefix(self.strip)

    def __str__(self) -> str:
        parts = [f"without '{self.strip}'" if self.strip else "", f"with '{self.add}'" if self.add else ""]
        return " and ".join(part for part in parts if part) or "as they are"


def _leading(names: Iterable[str]) -> list[str]:
    """Return what names begin with, up to three parts deep; of very many beginnings the commonest."""
    found: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        found.update(".".join(parts[:depth]) + "." for depth in range(1, min(_DEPTH, len(parts) - 1) + 1))
    return ["", *(beginning for beginning, _ in found.most_common(_MOST))]


def find_prefix(names: Collection[str], known: Collection[str], what: str) -> Prefix:
    """Return the prefix rule under which most of `names` are among `known`.

    Raises MatchError when two rules match equally many and lead to different places.
    """
    known_set, identity = set(known), Prefix("", "")
    if known_set.issuperset(names):
        return identity
    rules = [Prefix("", add) for add in _leading(known)] + [Prefix(strip, "") for strip in _leading(names)]
    rules += [Prefix("module.", add) for add in _leading(known)]
    placed = {rule: {rule(name) for name in names if name.startswith(rule.strip)} & known_set for rule in rules}
    most = max(len(found) for found in placed.values())
    if len(placed[identity]) == most:
        return identity
    best = sorted((rule for rule in rules if len(placed[rule]) == most), key=lambda rule: len(rule.strip + rule.add))
    if any(placed[rule] != placed[best[0]] for rule in best):
        raise MatchError(
            f"the names of {what} fit the base in more than one way: "
            f"{listing(dict.fromkeys(map(str, best)), 3)}. Give the one part of the base that was tuned."
        )
    return best[0]


def is_head(module: str) -> bool:
    """Return whether a module is an output head, which may share the weight of the input embedding."""
    return any(module == head or module.endswith("." + head) for head in TIED_HEADS)


def input_embedding(known: Collection[str]) -> str | None:
    """Return the one input embedding among these tensor names, None when there is none or several."""
    found = [key for key in known if any(key.endswith(f"{name}.weight") for name in INPUT_EMBEDDINGS)]
    return found[0] if len(found) == 1 else None


def is_vocabulary(key: str) -> bool:
    """Return whether a weight has one row per token, so that its rows may grow with the vocabulary."""
    module = key.removesuffix(".weight")
    return any(module == name or module.endswith("." + name) for name in INPUT_EMBEDDINGS + TIED_HEADS)


def selector(include: Collection[str], exclude: Collection[str]) -> Callable[..., bool]:
    """Return a test of a weight's names: some include pattern matches (or none is given), no exclude pattern does.

    A pattern is a shell pattern over the whole name, or a part of the name: `q_proj` is `*q_proj*`.
    """

    def among(names: tuple[str, ...], patterns: Collection[str]) -> bool:
        return any(fnmatchcase(name, pattern) or pattern in name for pattern in patterns for name in names)

    return lambda *names: (not include or among(names, include)) and not among(names, exclude)
