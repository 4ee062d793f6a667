"""Match the tensor names of a tuned model to those of its base, without building either model.

Two files of one model differ by a prefix at most: a wrapper in front (`bert.`, `model.`,
`base_model.model.`) is there in one and not in the other. The rule that matches the most names is
taken for all of them; two rules that match equally well are an ambiguity, never a guess.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from spectra.errors import MatchError
from spectra.text import listing, nearest, show

TIED_HEADS = ("lm_head", "embed_out", "cls.predictions.decoder", "output_projection")
INPUT_EMBEDDINGS = (
    "embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings", "shared", "tokens_embed",
)  # fmt: skip
_DEPTH = 3


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


def _leading(names: Iterable[str]) -> set[str]:
    found = {""}
    for name in names:
        parts = name.split(".")
        found.update(".".join(parts[:depth]) + "." for depth in range(1, min(_DEPTH, len(parts) - 1) + 1))
    return found


def find_prefix(names: Collection[str], known: Collection[str], what: str) -> Prefix:
    """Return the prefix rule under which most of `names` are among `known`.

    Raises MatchError when two rules match equally many and neither is simpler.
    """
    known_set = set(known)

    def matched(rule: Prefix) -> int:
        return sum(name.startswith(rule.strip) and rule(name) in known_set for name in names)

    identity = Prefix("", "")
    best, ties = (matched(identity), 0, identity), [identity]
    if best[0] == len(names):
        return identity
    rules = [Prefix("", add) for add in _leading(known)] + [Prefix(strip, "") for strip in _leading(names)]
    rules += [Prefix("module.", add) for add in _leading(known)]
    for rule in rules:
        score = matched(rule), -len(rule.strip + rule.add)
        if score > best[:2]:
            best, ties = (*score, rule), [rule]
        elif score[0] == best[0] and score[0] and rule not in ties:
            ties.append(rule)
    outcomes = {tuple(sorted(map(rule, names))) for rule in ties if matched(rule) == best[0]}
    if len(outcomes) > 1 and best[0]:
        raise MatchError(
            f"the names of {what} fit the base in more than one way: "
            f"{listing([str(rule) for rule in ties], 3)}. Give the one part of the base that was tuned."
        )
    return best[2]


def unmatched(names: Collection[str], known: Collection[str], what: str) -> MatchError:
    """Return the error that lists names found nowhere, each of the first ten with its nearest."""
    lines = []
    for name in list(names)[:10]:
        like = nearest(name, known)
        lines.append(f"  '{show(name)}'" + (f" (nearest in the base: '{show(like)}')" if like else ""))
    more = f"\n  and {len(names) - 10} more" if len(names) > 10 else ""
    return MatchError(
        f"{len(names)} of {what} match nothing in the base:\n" + "\n".join(lines) + more + "\n"
        "Is this the base it was trained on? `--allow-unmatched` lists them as skipped and goes on."
    )


def tied_embedding(module: str, known: Collection[str]) -> str | None:
    """Return the input embedding that an output head shares when the base stores it only once."""
    if not any(module == head or module.endswith("." + head) for head in TIED_HEADS):
        return None
    found = [key for key in known if any(key.endswith(f"{name}.weight") for name in INPUT_EMBEDDINGS)]
    return found[0] if len(found) == 1 else None


def is_vocabulary(key: str) -> bool:
    """Return whether a weight has one row per token, so that its rows may grow with the vocabulary."""
    module = key.removesuffix(".weight")
    return any(module == name or module.endswith("." + name) for name in INPUT_EMBEDDINGS + TIED_HEADS)


def selector(include: Collection[str], exclude: Collection[str]) -> Callable[[str], bool]:
    """Return a test of names: some include pattern matches (or none is given), no exclude pattern does.

    A pattern is a shell pattern over the whole name, or a part of the name: `q_proj` is `*q_proj*`.
    """

    def among(name: str, patterns: Collection[str]) -> bool:
        return any(fnmatchcase(name, pattern) or pattern in name for pattern in patterns)

    return lambda name: (not include or among(name, include)) and not among(name, exclude)
