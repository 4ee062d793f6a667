"""What in a file deserves a second look, each as one sentence. Torch-free.

A check reads the evidence and yields sentences; a new check is one function and one row of `CHECKS`.
Nothing here refuses: what an analysis refuses is in `refusals`.
"""

from collections import Counter
from collections.abc import Callable, Iterator

from spectra.errors import UnsupportedError
from spectra.loaders.adapters.config import CHANGES_BASE
from spectra.loaders.inspection.declared import Evidence, number, plain, scale
from spectra.loaders.methods import FULL, LORA, Fate, kins, of_peft
from spectra.loaders.orientation import CONV1D_MODULES
from spectra.text import count, listing, show


def suspicions(evidence: Evidence) -> list[str]:
    """Return every sentence that any check has to say, in the order of the table."""
    return [sentence for check in CHECKS for sentence in check(evidence)]


def _notes(evidence: Evidence) -> Iterator[str]:
    yield from evidence.header.notes


def _names(evidence: Evidence) -> Iterator[str]:
    odd = [name for name in evidence.header.tensors if show(name, None) != name]
    if odd:
        yield f"{count(len(odd), 'tensor name')} with control or direction characters: '{show(odd[0])}'"
    empty = [name for name, info in evidence.header.tensors.items() if 0 in info.shape]
    if empty:
        yield f"{count(len(empty), 'tensor')} of zero size: {listing(empty, 3)}"


def _packed(evidence: Evidence) -> Iterator[str]:
    if evidence.packed:
        yield f"weights are stored packed by {evidence.packed}: what is read of them is dequantised"


def _method(evidence: Evidence) -> Iterator[str]:
    declared, methods = evidence.declared.peft_type, evidence.contents.methods
    found = kins(methods)
    if len(found) > 1:
        yield f"tensors of several methods or naming styles in one file: {listing(found)}"
    if declared is not None and FULL not in methods and all(declared not in row.peft for row in methods):
        yield f"adapter_config.json says {show(declared)}, the tensors are named as {methods[0].name}"
    if declared is not None and FULL in methods and of_peft(declared) is not None:
        yield f"adapter_config.json says {show(declared)}, but no tensor is named so"
    if len(evidence.contents.adapters) > 1:
        names = sorted("no name" if name is None else f"'{show(name)}'" for name in evidence.contents.adapters)
        yield f"several adapters in one file: {', '.join(names)}"


def _configuration(evidence: Evidence) -> Iterator[str]:
    method = evidence.method
    if method is not FULL and method.kin == "peft" and evidence.declared.adapter is None:
        yield "an adapter file without adapter_config.json: its alpha, and so its scale, is unknown"
    elif method.product and evidence.contents.modules and not _scaled(evidence):
        yield f"no alpha or scale in the file: {_assumed(method.kin)}"


def _scaled(evidence: Evidence) -> bool:
    if evidence.declared.peft_type == "LORA":
        return "lora_alpha" in (evidence.declared.adapter or {})
    if any(name.endswith(".alpha") for name in evidence.header.tensors):
        return True
    try:
        return bool(scale(evidence).scalings)
    except UnsupportedError:
        return True


def _assumed(kin: str) -> str:
    habits = {
        "peft": "PEFT takes alpha = 8",
        "kohya": "readers take alpha = r, a scale of 1",
        "diffusers": "diffusers takes alpha = r, a scale of 1",
        "cloneofsimo": "its reader takes a scale of 1",
        "mlx": "MLX's default changed between its versions",
    }
    return habits.get(kin, "ask its author")


def _factors(evidence: Evidence) -> Iterator[str]:
    faulty = evidence.faulty()
    lacking = {"A" if evidence.contents.modules[name].down is None else "B" for name in faulty["missing"]}
    sentences = {
        "missing": f"without factor {' or '.join(sorted(lacking))}",
        "inner": "whose factors disagree about the rank",
        "above": "with a rank above the matrix's size",
    }
    for fault, modules in faulty.items():
        if modules:
            yield f"{count(len(modules), 'module')} {sentences[fault]}: {listing(map(plain, modules), 3)}"


def _rank(evidence: Evidence) -> Iterator[str]:
    """Compare the stored ranks with those of the configuration."""
    config = evidence.declared.adapter or {}
    if config.get("target_parameters") or config.get("enable_lora"):
        return  # the factors of several experts, or of q, k and v, lie in one tensor
    expected = _expected_ranks(evidence)
    differ = Counter(
        (rank, expected[name]) for name, rank in evidence.ranks.items() if rank != expected.get(name, rank)
    )
    for (stored, told), modules in differ.items():
        yield f"stored rank {stored}, but the configuration says {told:g} ({count(modules, 'module')})"


def _expected_ranks(evidence: Evidence) -> dict[str, float]:
    declared, config = evidence.declared, evidence.declared.adapter or {}
    if declared.peft is not None and declared.peft_type == "LORA":
        try:
            return {name: declared.peft.rank_of(plain(name)) for name in evidence.ranks}
        except UnsupportedError:
            return {}
    parameters = config.get("lora_parameters")
    told = {
        "ADALORA": config.get("init_r") if not config.get("rank_pattern") else None,
        None: parameters.get("rank") if isinstance(parameters, dict) else None,
    }.get(declared.peft_type)
    rank = number(told)
    return dict.fromkeys(evidence.ranks, rank) if rank is not None else {}


def _start(evidence: Evidence) -> Iterator[str]:
    config = evidence.declared.adapter or {}
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower().startswith(CHANGES_BASE):
        yield f"init_lora_weights {show(start)} changes the base itself: dW is not s B A of the original"
    magnitudes = any(name.endswith("lora_magnitude_vector") for name in evidence.header.tensors)
    if evidence.declared.peft_type == "LORA" and config.get("use_dora") and not magnitudes:
        yield "use_dora is set, but there is no lora_magnitude_vector"
    if evidence.declared.peft_type == "LORA" and magnitudes and not config.get("use_dora"):
        yield "there are lora_magnitude_vector tensors (DoRA), but use_dora is not set"
    if evidence.method is LORA and any(value == 0 for value in _scalings(evidence)):
        yield "alpha is 0: the update is zero whatever the factors hold"


def _scalings(evidence: Evidence) -> tuple[float, ...]:
    try:
        return scale(evidence).scalings
    except UnsupportedError:
        return ()


def _orientation(evidence: Evidence) -> Iterator[str]:
    config = evidence.declared.adapter or {}
    transposed = {plain(name).rpartition(".")[2] for name in evidence.contents.modules} & set(CONV1D_MODULES)
    if evidence.declared.peft_type == "LORA" and config.get("fan_in_fan_out") is False and "c_attn" in transposed:
        yield f"fan_in_fan_out is false, but {listing(sorted(transposed))} of GPT-2 are stored [in, out]"


def _twice(evidence: Evidence) -> Iterator[str]:
    """Find one weight stored under two names: PEFT's copies, or one storage under two names in an adapter."""
    tensors = evidence.header.tensors
    both = [name for name in tensors if ".modules_to_save." in name and _bare(name) in tensors]
    if both:
        yield f"{count(len(both), 'weight')} stored twice, plain and under modules_to_save: {listing(both, 2)}"
    tied = [name for name, info in tensors.items() if info.alias is not None]
    if tied and evidence.method.fate is not Fate.NONE and evidence.method is not FULL:
        yield f"{count(len(tied), 'tensor')} of the adapter on a storage used before: {listing(tied, 3)}"


def _bare(name: str) -> str:
    front, _, leaf = name.partition(".modules_to_save.")
    return f"{front}.{leaf.rpartition('.')[2]}"


CHECKS: tuple[Callable[[Evidence], Iterator[str]], ...] = (
    _notes,
    _names,
    _packed,
    _method,
    _configuration,
    _factors,
    _rank,
    _start,
    _orientation,
    _twice,
)
