"""What a file of weights is, said in a moment: without torch, and without reading the weights.

Names, shapes, dtypes and the configurations beside them tell the method, its rank and scale, what it
targets, what looks wrong, and whether `diagnose` reads it. A pickle is walked and never loaded.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from spectra.errors import UnsafeFileError, UnsupportedError
from spectra.loaders import formats, quantization
from spectra.loaders.files import names_in, require_exists
from spectra.loaders.header import Header
from spectra.loaders.inspection.declared import Declared, Evidence, Scale, base_named, plain, read_declared, scale
from spectra.loaders.inspection.facts import facts
from spectra.loaders.inspection.locate import read_any, refused_pickle
from spectra.loaders.inspection.refusals import inserted, refusal
from spectra.loaders.inspection.suspicions import suspicions
from spectra.loaders.links import opening
from spectra.loaders.methods import DORA, FULL, LORA, Fate, Method, of_peft, recognise
from spectra.text import listing, show


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor as its container declares it."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a file or folder of weights is.

    parameters, bytes : each shared storage counted once. dtypes : dtype -> tensors. ranks, alphas,
    scalings : the distinct values over the adapted modules, ascending; formula says how a scaling
    follows from alpha. blocks : stack -> block numbers. readable, reason : whether `spectra diagnose`
    reads it; when not, why, and when so, as what. hostile : it was not opened, for safety.
    """

    name: str
    container: str
    files: int
    tensors: int
    parameters: int
    bytes: int
    dtypes: dict[str, int]
    method: str
    modules: int
    ranks: tuple[int, ...]
    alphas: tuple[float, ...]
    scalings: tuple[float, ...]
    formula: str
    targets: tuple[str, ...]
    blocks: dict[str, tuple[int, ...]]
    base_named: str | None
    facts: tuple[str, ...]
    suspicious: tuple[str, ...]
    readable: bool
    reason: str
    hostile: bool = False
    listed: tuple[Tensor, ...] = ()

    def to_dict(self, *, listed: bool = False) -> dict[str, Any]:
        """Return it as plain data for JSON; `listed` adds every tensor."""
        found = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "listed"}
        if listed:
            found["listed"] = [asdict(tensor) for tensor in self.listed]
        return {"schema": 1, **found}


def inspect(path: str | Path, *, follow_symlinks: bool = False) -> Inspection:
    """Describe a weights file, an adapter folder or a model folder.

    Raises InputError, or one of its kinds, for what is missing, broken or no weights at all. A pickle that
    would run code is described, not refused: `hostile` is set and nothing in it was executed.
    follow_symlinks : follow links in a folder that leave it, as `diagnose` does with this option.
    """
    require_exists(path)
    path = Path(path)
    with opening(path, follow_symlinks=follow_symlinks):
        return _inspected(path)


def _inspected(path: Path) -> Inspection:
    try:
        header = read_any(path)
    except UnsafeFileError:
        refused = refused_pickle(path)
        if refused is None:
            raise
        return _unopened(path, *refused)
    folder = path if path.is_dir() else path.parent
    declared = read_declared(folder, header, adapter=path.is_dir() or path.name not in formats.WEIGHT_NAMES)
    contents = recognise(header.tensors)
    packed = quantization.scheme(header.tensors, declared.model)
    evidence = Evidence(header, contents, _method(contents.methods, declared), declared, packed)
    return _described(path, evidence)


def _name(path: Path) -> str:
    """Return the name the user gave; a link is not followed, since the Hub's cache links to hashes."""
    return path.name if path.name not in ("", "..") else path.resolve().name


def _unopened(path: Path, size: int, reason: str) -> Inspection:
    """Describe a file of which only its size is believed."""
    return Inspection(
        name=_name(path), container="torch pickle, not opened", files=1, tensors=0, parameters=0, bytes=size,
        dtypes={}, method="unknown", modules=0, ranks=(), alphas=(), scalings=(), formula="", targets=(), blocks={},
        base_named=None, facts=(), suspicious=(reason,), readable=False, reason="it is not safe to open", hostile=True,
    )  # fmt: skip


def _method(methods: tuple[Method, ...], declared: Declared) -> Method:
    """Take the method from the tensor names; where these tell nothing, from the configuration."""
    known = of_peft(declared.peft_type) if declared.peft_type is not None else None
    if known is not None:
        named = next((row for row in methods if declared.peft_type in row.peft), None)
        return named or (methods[0] if methods[0] is not FULL else known)
    if declared.peft_type is not None and methods[0] is FULL:
        return Method(f"{show(declared.peft_type)} (PEFT)", "", Fate.MERGE, "peft", product=False)
    return methods[0]


def _label(evidence: Evidence) -> str:
    """Name the method as people say it, with the variant that changes its arithmetic."""
    method, raw = evidence.method, evidence.declared.adapter or {}
    if method is FULL and isinstance(raw.get("fine_tune_type"), str):
        return f"fine-tuned weights (MLX, fine_tune_type {show(raw['fine_tune_type'])})"
    if method.kin == "mlx" and raw.get("fine_tune_type") == "dora":
        return "DoRA (MLX)"
    if method not in (LORA, DORA):
        return method.name
    if raw.get("enable_lora"):
        return "LoRA, MergedLinear of PEFT 0.2 (enable_lora)"
    if method is DORA or raw.get("use_dora"):
        return "DoRA (PEFT)"
    return "rsLoRA (PEFT)" if raw.get("use_rslora") else LORA.name


def _described(path: Path, evidence: Evidence) -> Inspection:
    header, contents, method = evidence.header, evidence.contents, evidence.method
    modules = list(contents.modules)
    scaled, reason = _scale(evidence), refusal(evidence)
    measured = inserted(evidence) if reason is not None else None
    return Inspection(
        name=_name(path),
        container=header.container,
        files=len(header.files),
        tensors=len(header.tensors),
        parameters=header.parameters,
        bytes=header.bytes,
        dtypes=dict(Counter(info.dtype for info in header.tensors.values()).most_common()),
        method=_label(evidence),
        modules=len(modules),
        ranks=tuple(sorted(set(evidence.ranks.values()))) if method.fate is not Fate.NONE else (),
        alphas=scaled.alphas,
        scalings=scaled.scalings,
        formula=scaled.formula if scaled.scalings else "",
        targets=tuple(sorted({target for module in modules if (target := _target(module))})),
        blocks=_blocks(map(plain, header.tensors)),
        base_named=base_named(evidence.declared),
        facts=(*facts(evidence), *_beside(path, header)),
        suspicious=tuple(suspicions(evidence)),
        readable=reason is None or measured is not None,
        reason=_read_as(path, evidence) if reason is None else _measured_as(measured) if measured else reason,
        listed=tuple(Tensor(name, info.dtype, info.shape) for name, info in header.tensors.items()),
    )


def _scale(evidence: Evidence) -> Scale:
    """Return the scale, empty where there is none or where the configuration's patterns are refused."""
    try:
        return scale(evidence) if evidence.method.fate is not Fate.NONE else Scale()
    except UnsupportedError:
        return Scale()


def _beside(path: Path, header: Header) -> list[str]:
    """Name the other weights files of a folder."""
    read = {record.name for record in header.files}
    others = [name for name in names_in(path) if Path(name).suffix in formats.WEIGHT_SUFFIXES] if path.is_dir() else []
    left = [name for name in others if name not in read]
    return [f"beside it in the folder: {listing(left, 5)}"] if left else []


def _read_as(path: Path, evidence: Evidence) -> str:
    if evidence.method is FULL:
        return "as a base or as a full fine-tune of one"
    return f"as an adapter {'folder' if path.is_dir() else 'file'}, beside the base it was trained on"


def _measured_as(inserted: str) -> str:
    return f"for the matrices it inserts ({inserted}), each measured for what it is: it has no weight update"


def _target(module: str) -> str:
    """Return the kind of module: the last part of a dotted name, or what follows the last number of a flat one."""
    if "." in module:
        parts = [part for part in plain(module).removesuffix(".weight").split(".") if part != "base_layer"]
        if len(parts) > 1 and parts[-1].isdigit():
            return ".".join(parts[-2:])
        return parts[-1]
    last = re.sub(r"^(?:.*_\d+_|(?:lora|lycoris|oft)_(?:unet_|te\d?_)?)", "", module)
    return "" if re.fullmatch(r"(?:\w+:)?\d+", last) else last


def _blocks(names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Return the block numbers of every stack, read off dotted or underscored names."""
    found: dict[str, set[int]] = {}
    for name in names:
        match = re.match(r"^(?P<stack>[^.\d]\w*(?:\.[^.\d][^.]*)*)\.(?P<block>\d{1,6})\.", name)
        match = match or re.match(r"^(?P<stack>[A-Za-z]\w*?)_(?P<block>\d{1,6})_", name)
        if match is not None:
            found.setdefault(match["stack"], set()).add(int(match["block"]))
    return {stack: tuple(sorted(numbers)) for stack, numbers in found.items()}
