"""What the files say of themselves: whether a tuned model names this base, and is built as it is.

None of it is proof: names are copied, moved and shortened. So it is noted, and nothing is refused for it.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any, TypeGuard

from spectra.loaders.header import FLOATS
from spectra.loaders.source import TensorSource
from spectra.text import count, show

# What a fine-tune leaves as it was; the name that GPT-2 and its relatives have for it second.
_BUILT = (
    ("model_type",),
    ("num_hidden_layers", "n_layer"),
    ("hidden_size", "n_embd"),
    ("num_attention_heads", "n_head"),
)
# Words of a name that say how the weights are stored, not which they are.
_PACKING = re.compile(
    r"(?<![a-z0-9])(?:hf|gguf|ggml|gptq|awq|exl2|mlx|bnb|[348][-_]?bit|int[48]|fp8|fp16|bf16|f16|f32"
    r"|i?q\d(?:[-_](?:k(?:[-_][sml])?|\d))?)(?![a-z0-9])"
)
_SIZE = re.compile(r"\d[mb](?![a-z0-9])")  # 270m, 7b


def doubts(base: TensorSource, tuned: TensorSource, named: str | None = None) -> list[str]:
    """Say where the tuned files contradict the base's: the model they name as theirs, and how it is built.

    named : the base that an adapter's configuration names. A checkpoint on disk names as `_name_or_path` the model
    that it was loaded from; a module in memory so names itself.
    """
    if named is None and tuned.header.container != "memory":
        named = tuned.config.get("_name_or_path")
    return [*_other_name(base, named), *_built_otherwise(base, tuned), *_stored_otherwise(base, tuned)]


def _other_name(base: TensorSource, named: Any) -> list[str]:
    """Compare the name that the tuned files give their base with what the base is surely called.

    A `_name_or_path` in a `config.json` may be that of the model which the base itself was tuned from: alone it can
    only confirm. Owners, case, separators and what a name says of packing are left aside.
    """
    if not isinstance(named, str) or not _spelled(named):
        return []
    declared, packed = base.config.get("_name_or_path"), base.header.metadata.get("general.name")
    if _spelled(named) in {_spelled(name) for name in (base.label, declared, packed) if isinstance(name, str)}:
        return []
    own, where = _own_name(base)
    if not own or not (_alike(named, own) or (own != packed and _is_name(named))):
        return []
    return [
        f"the tuned files name '{show(named)}' as their base, and the base calls itself '{show(own)}' ({where}): "
        "another model, owner, case and packing aside"
    ]


def _own_name(base: TensorSource) -> tuple[str, str]:
    """Return what the base is called, and what says so; nothing where only hints do."""
    declared, packed = base.config.get("_name_or_path"), base.header.metadata.get("general.name")
    if "/" in base.label:
        return base.label, "by its folder in the Hub's cache"
    if _is_name(declared) and base.header.container == "memory":
        return declared, "by the configuration it was loaded with"
    if _is_name(declared) and _spelled(declared) == _spelled(base.label):
        return declared, "by its folder and config.json"
    return (packed, "by its GGUF metadata") if packed else ("", "")


def _alike(one: str, other: str) -> bool:
    """Return whether both are names of one family with a size, so that they can be compared wherever they stand."""
    first, second = (re.split("[^a-z]", _last(name))[0] for name in (one, other))
    return first == second != "" and all(_SIZE.search(_last(name)) for name in (one, other))


def _spelled(name: str) -> str:
    """Return the last part of a name in its letters and digits, without what it says of packing."""
    return re.sub("[^a-z0-9]", "", _PACKING.sub("", _last(name)))


def _is_name(name: Any) -> TypeGuard[str]:
    """Return whether this is a name and no path of one machine."""
    if not isinstance(name, str) or not name.strip("./\\ "):
        return False
    return not name.startswith((".", "~")) and not PurePosixPath(name).is_absolute() and not PureWindowsPath(name).drive


def _last(name: str) -> str:
    return re.split(r"[/\\]", name.rstrip("/\\"))[-1].casefold()


def _built_otherwise(base: TensorSource, tuned: TensorSource) -> list[str]:
    notes = []
    for names in _BUILT:
        before, after = _of(base.config, names), _of(tuned.config, names)
        if before is not None and after is not None and before != after:
            notes.append(
                f"config.json: {names[0]} is {show(before, 40)} in the base and {show(after, 40)} in the tuned model"
            )
    return notes


def _stored_otherwise(base: TensorSource, tuned: TensorSource) -> list[str]:
    """Say where one name has two floating-point types: rounding, or a header that declares the wrong one."""
    names, other = base.header.tensors, tuned.header.tensors
    types = Counter((info.dtype, other[key].dtype) for key, info in names.items() if key in other)
    return [
        f"{count(number, 'tensor')} stored as {before} in the base, as {after} in the tuned model"
        for (before, after), number in types.items()
        if before != after and before in FLOATS and after in FLOATS
    ]


def _of(config: Mapping[str, Any], names: tuple[str, ...]) -> str | int | None:
    return next((config[name] for name in names if isinstance(config.get(name), str | int)), None)
