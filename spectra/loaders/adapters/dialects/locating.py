"""Where modules lie in the base, for dialects that need its shapes to know what their tensors are."""

from collections.abc import Collection

from spectra.loaders.adapters.adapter import Found, homes
from spectra.loaders.matching import find_prefix
from spectra.text import show


def located(modules: Collection[str], found: Found) -> dict[str, str]:
    """Return the base key of every module that has one; what has none is refused when the adapter is placed."""
    known, told = homes(found.base), found.options.names
    rule = find_prefix([name for name in modules if name not in told], known, f"'{show(found.source.label)}'")
    keys = {name: known.get(told.get(name, rule(name))) for name in modules}
    return {name: key for name, key in keys.items() if key is not None}
