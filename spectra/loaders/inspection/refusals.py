"""Whether `diagnose` reads a file, and if not, why: known from names and configuration alone. Torch-free."""

from collections.abc import Callable

from spectra.errors import UnsupportedError
from spectra.loaders.adapters.config import REFUSED_OPTIONS
from spectra.loaders.adapters.families import starts
from spectra.loaders.adapters.families.unread import reason_against as reason_against_config
from spectra.loaders.header import FLOATS
from spectra.loaders.insertion_kinds import kind_of
from spectra.loaders.inspection.declared import Evidence, plain, scale
from spectra.loaders.inspection.own_words import own_words
from spectra.loaders.methods import DORA, FULL, LORA, METHODS, TOKENS, Fate
from spectra.loaders.quantization.declared import reason_against
from spectra.text import listing, show

READ_TYPES = frozenset(name for method in METHODS if method.fate is Fate.READ for name in method.peft)
MERGE = "merge it with its own library and diagnose the merged model as a full fine-tune"


def refusal(evidence: Evidence) -> str | None:
    """Return why `diagnose` reads no weight updates from this file, None when it does."""
    return next((reason for check in _CHECKS if (reason := check(evidence))), None)


def inserted(evidence: Evidence) -> str | None:
    """Return what `diagnose` measures in a file without weight updates, None where there is nothing either."""
    kind = None if evidence.packed else kind_of(evidence.header.tensors, evidence.declared.adapter or {})
    return None if kind is None else kind.name


def _packed(evidence: Evidence) -> str | None:
    return reason_against(evidence.header.tensors, evidence.declared.model) if evidence.packed else None


def _method(evidence: Evidence) -> str | None:
    method, declared = evidence.method, evidence.declared.peft_type
    if method.fate is Fate.NONE:
        return f"{method.name} has no fixed weight update, so there is no dW to analyse"
    speech = own_words(evidence)
    if speech is not None:
        return speech(evidence)
    if evidence.declared.foreign is not None:
        return evidence.declared.foreign
    if method.fate is Fate.MERGE or (declared is not None and declared not in READ_TYPES):
        return f"{method.name} is not read yet: {MERGE}"
    if method is not FULL and evidence.declared.peft is None:
        return "adapter_config.json is missing beside it, and with it the scale: give the adapter's whole folder"
    styles = {style for style in evidence.contents.methods if declared not in style.peft} - {DORA, LORA, TOKENS}
    if declared is not None and styles:
        names = listing(style.name for style in styles)
        return f"its tensors are named as {names}, not as PEFT names those of {declared}: {MERGE}"
    return None


def _options(evidence: Evidence) -> str | None:
    config = evidence.declared.peft
    if config is None:
        return None
    for option, meaning in REFUSED_OPTIONS.items():
        if config.raw.get(option) not in (None, False, [], {}):
            return f"it {meaning}"
    unread = reason_against_config(config.method, config.raw)
    if unread is not None:
        return unread.removesuffix(".")
    start = starts.refusal(config) if config.method == "LORA" else None
    if start is not None:
        return start.removesuffix(".")
    try:
        scale(evidence)
    except UnsupportedError as fault:
        return show(fault, 200)
    return None


def _factors(evidence: Evidence) -> str | None:
    """Look at the factors first, of a method that is read: no option makes up for one that is missing."""
    if evidence.method.fate is not Fate.READ or evidence.method is FULL:
        return None
    faulty = evidence.faulty()
    if faulty["missing"]:
        return f"a factor is missing: {listing(map(plain, faulty['missing']), 2)}"
    if faulty["inner"]:
        return f"two factors disagree about the rank: {listing(map(plain, faulty['inner']), 2)}"
    return None


def _contents(evidence: Evidence) -> str | None:
    if evidence.method is FULL:
        matrices = [info for info in evidence.header.tensors.values() if len(info.shape) > 1 and info.read_as in FLOATS]
        return None if matrices or evidence.packed else "it holds no matrix of floating-point weights"
    if len(evidence.contents.adapters) > 1:
        return "several adapters lie in one file: save one a file"
    dora = evidence.declared.peft is not None and evidence.declared.peft.use_dora
    return "DoRA without its lora_magnitude_vector" if dora and DORA not in evidence.contents.methods else None


_CHECKS: tuple[Callable[[Evidence], str | None], ...] = (_packed, _factors, _method, _options, _contents)
