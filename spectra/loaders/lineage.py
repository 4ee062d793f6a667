"""What the files say of themselves: whether a tuned model names this base, and is built as it is.

None of it is proof: names are copied, moved and shortened. So it is noted, and nothing is refused for it.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

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


def doubts(base: TensorSource, tuned: TensorSource, named: str | None = None) -> list[str]:
    """Say where the tuned files contradict the base's: the model they name as theirs, and how it is built.

    named : the base that an adapter's configuration names. A checkpoint on disk names as `_name_or_path` the model
    that it was loaded from; a module in memory so names itself.
    """
    if named is None and tuned.header.container != "memory":
        named = tuned.config.get("_name_or_path")
    return [*_other_name(base, named), *_built_otherwise(base, tuned), *_stored_otherwise(base, tuned)]


def _other_name(base: TensorSource, named: Any) -> list[str]:
    """Compare the last parts of names: organisations are moved and folders differ. A path of one machine is no name."""
    declared, hub = base.config.get("_name_or_path"), base.label if "/" in base.label else None
    own = [str(name) for name in (declared, hub) if _is_name(name)]
    if not own or not _is_name(named) or _last(named) in (_last(base.label), *map(_last, own)):
        return []
    return [f"the tuned files name '{show(named)}' as their base, and the base calls itself '{show(own[0])}'"]


def _is_name(name: Any) -> bool:
    if not isinstance(name, str) or not name.strip("./\\ "):
        return False
    return not name.startswith((".", "~")) and not PurePosixPath(name).is_absolute() and not PureWindowsPath(name).drive


def _last(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2].casefold()


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
