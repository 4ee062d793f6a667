"""The dialect of PEFT: `adapter_config.json` beside one file of tensors named after the modules they adapt."""

from dataclasses import replace
from pathlib import Path

from spectra.errors import FormatError, MatchError, UnsupportedError
from spectra.loaders.adapters.adapter import Adapter, Dialect, Found
from spectra.loaders.adapters.beside import with_trained_beside
from spectra.loaders.adapters.config import CONFIG_NAME, AdapterConfig, read_config, read_raw
from spectra.loaders.adapters.contents import Contents, shapes_of, sort_tensors
from spectra.loaders.adapters.dialects.respelled import as_it_lies, respelled
from spectra.loaders.adapters.dialects.unconfigured import peft_config
from spectra.loaders.adapters.dialects.wrapped import unwrapped
from spectra.loaders.adapters.families.lora import LORA
from spectra.loaders.adapters.families.merged_linear import merged_linear
from spectra.loaders.adapters.families.table import family_of
from spectra.loaders.adapters.families.tokens import TOKENS
from spectra.loaders.adapters.family import Family, Shapes
from spectra.loaders.files import require_exists
from spectra.loaders.formats import ADAPTER_NAMES
from spectra.loaders.links import opening
from spectra.loaders.options import given_as
from spectra.loaders.plan import Plan
from spectra.loaders.source import TensorSource, open_source
from spectra.text import listing, show

# In PEFT the second factor of a MergedLinear is the kernel of a convolution, [out, r, 1].
_GROUPED = {"lora_A": ("lora_A", as_it_lies), "lora_B": ("lora_B", lambda stored: stored.flatten(1))}


def _recognises(found: Found) -> bool:
    return bool(found.raw)


def _read(found: Found, plan: Plan) -> Adapter:
    options = found.options
    config = replace(peft_config(found), as_stored=options.as_stored, initial=options.initial is not None)
    family = family_of(config)
    if config.method == "LORA" and any(_enabled(config)):
        family = respelled(merged_linear(_enabled(config)), LORA.parse, _GROUPED)
    adapter = read_as(family, config, found, plan)
    return adapter if options.initial is None else _with_initial(adapter, family, options.initial, found, plan)


def _enabled(config: AdapterConfig) -> tuple[bool, ...]:
    """Return which blocks the MergedLinear of PEFT up to 0.2 adapts, nothing where it was not used."""
    given = config.raw.get("enable_lora")
    if not given:
        return ()
    if not isinstance(given, list) or not all(isinstance(flag, bool) for flag in given):
        raise FormatError(f"{CONFIG_NAME}: enable_lora is {show(repr(given), 40)}; it must be a list of flags.")
    return tuple(given)


def _with_initial(adapter: Adapter, family: Family, path: Path, found: Found, plan: Plan) -> Adapter:
    """Add the adapter as it was before training. Raises MatchError where it is not that of the trained one."""
    if adapter.config.method != "LORA":
        raise UnsupportedError(f"{given_as('initial')} is read for LoRA alone, and this is {adapter.config.method}.")
    with opening(path, follow_symlinks=found.options.follow_symlinks):
        require_exists(path)
        raw = read_raw(path if path.is_dir() else path.parent) or found.raw
        before = Found(path, open_source(path, ADAPTER_NAMES), raw, found.base)
    plan.others.append(before.source)
    initial = read_as(family, read_config(raw), before, Plan(plan.info, before.source))
    reason = _why_another(initial.contents, before.source, adapter.contents, adapter.source)
    if reason is not None:
        raise MatchError(f"'{show(path.name)}' (initial) {reason}. Is it this adapter as it was before training?")
    return replace(adapter, initial=initial)


def _why_another(before: Contents, initial: TensorSource, after: Contents, trained: TensorSource) -> str | None:
    """Say why one adapter is not another before its training: then it has the same modules, of the same shapes."""
    lost = [name for name in after.modules if name not in before.modules]
    if lost:
        return f"has no factors for '{show(lost[0])}', which the adapter has"
    more = [name for name in before.modules if name not in after.modules]
    if more:
        return f"has factors for '{show(more[0])}', which the adapter has not"
    for name, module in after.modules.items():
        shapes, own = shapes_of(module, trained), shapes_of(before.modules[name], initial)
        if shapes != own:
            return f"has {_listed(own)} for '{show(name)}', and the adapter {_listed(shapes)}"
    return None


def _listed(shapes: Shapes) -> str:
    return listing(f"{part} {list(shape)}" for part, shape in sorted(shapes.items()))


def read_as(family: Family, config: AdapterConfig, found: Found, plan: Plan) -> Adapter:
    """Read a folder in PEFT's spelling as one of a family."""
    source = with_trained_beside(found.source, found.folder)
    plan.source = source
    contents = sort_tensors(family, plan)
    if family.vectors and not contents.replaced:
        raise UnsupportedError(
            f"the adapter's method is {family.label(config, {})} (peft_type {family.method}): it trains only biases or "
            "norms, which are vectors, so that it has no weight update to analyse."
        )
    if not contents.modules and not family.vectors and contents.everywhere is None:
        raise MatchError(
            f"'{show(source.label)}' has an {CONFIG_NAME} but no {family.method} tensors. If it is a merged "
            "model, give its weights file instead of its folder."
        )
    tokens = config.raw.get("trainable_token_indices")
    if tokens and all(module.family is not TOKENS for module in contents.modules.values()):
        raise MatchError(
            f"{CONFIG_NAME}: trainable_token_indices ({show(tokens, 40)}) replaces rows of the embedding, and "
            f"'{show(source.label)}' has none. Save the adapter again where it was trained."
        )
    plan.notes.extend(family.notes(config))
    return Adapter(config, source, unwrapped(contents, config, found.base, source))


PEFT = Dialect("PEFT", _recognises, _read)
