"""Adapted weights that are stored once and used more than once: a merge changes more of the model than the adapter."""

from collections.abc import Iterable, Mapping, Sequence

from spectra.loaders.adapters.contents import Module
from spectra.loaders.adapters.families.tokens import TOKENS
from spectra.loaders.base import Base
from spectra.loaders.matching import plain
from spectra.loaders.plan import Tied

_HEAD = "lm_head"


def tied_weights(adapted: Mapping[str, Iterable[Module]], base: Base) -> tuple[Tied, ...]:
    """Return the weights, of those adapted, that several modules of the adapter or of the base share.

    Retrained tokens are none of these: PEFT puts them on every module that shares the weight.
    """
    found, sharing = [], _sharing(base)
    for key, modules in adapted.items():
        own = [module for module in modules if module.family is not TOKENS]
        names = tuple(dict.fromkeys(module.name for module in own))
        heads = [name for name in names if base.tied_to(name) == key]
        several = len({module.index for module in own}) < len(own)
        others = _others(_module(base, key), names, [*sharing.get(key, ()), *heads]) if names else ()
        if several or others:
            found.append(Tied(key, names, others))
    return tuple(found)


def _sharing(base: Base) -> Mapping[str, list[str]]:
    """Return the modules that use each stored weight besides the one that it is named after."""
    found: dict[str, list[str]] = {}
    for key, info in base.tensors.items():
        if info.alias is not None:
            found.setdefault(info.alias, []).append(_module(base, key))
    tied = base.tied_to(_HEAD) if _declares_tied(base.source.config) else None
    if tied is not None:
        found.setdefault(tied, []).append(_HEAD)
    return found


def _others(own: str, names: Sequence[str], sharing: Sequence[str]) -> tuple[str, ...]:
    """Return those who use a weight and are not adapted; its own module is one where only another's name is adapted.

    Names are compared by their last part: those of the adapter may be in another spelling than the base's.
    """
    known = {_last(name) for name in names}
    others = [user for user in sharing if _last(user) not in known]
    only_another = len(others) < len(sharing) and _last(own) not in known
    return tuple(dict.fromkeys([own, *others] if only_another else others))


def _module(base: Base, key: str) -> str:
    return plain(base.name(key)).removesuffix(".weight")


def _declares_tied(config: Mapping[str, object]) -> bool:
    """Return whether the configuration says so itself. By default heads are tied, but not every model has one."""
    inner = config.get("text_config")
    return any(known.get("tie_word_embeddings") is True for known in (config, inner) if isinstance(known, Mapping))


def _last(name: str) -> str:
    return name.rpartition(".")[2]
