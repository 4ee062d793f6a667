"""Which way an adapted weight lies: as the architecture says; where that is not known, by shapes, then by the flag.

PEFT corrects `fan_in_fan_out` while it wraps a model, to what each wrapped layer is: it saves that of the last one.
"""

from collections.abc import Iterator, Mapping, Sequence

from spectra.layout import Layout
from spectra.loaders.adapters.adapter import Adapter
from spectra.loaders.adapters.config import AdapterConfig
from spectra.loaders.adapters.contents import Module, shapes_of
from spectra.loaders.base import Base
from spectra.loaders.matching import is_vocabulary, plain
from spectra.loaders.orientation import CONV1D_MODULES
from spectra.text import listing

_LIE = {True: "[in, out]", False: "[out, in]"}


def orient(key: str, base: Base, fit: tuple[int, int] | None, config: AdapterConfig) -> Layout:
    """Return the layout of an adapted base weight; fit : the `[out, in]` shape of its update, where that is known."""
    layout = base.layout(key)
    stored = layout.stored_shape
    if base.knows_architecture or layout.kind == "transposed" or not _may_be_turned(key, stored):
        return layout
    told = _by_shape(stored, fit)
    turned = config.fan_in_fan_out if told is None else told
    return Layout("transposed", stored) if turned else layout


def _may_be_turned(key: str, stored: tuple[int, ...]) -> bool:
    return len(stored) == 2 and not is_vocabulary(key)


def _by_shape(stored: tuple[int, ...], fit: tuple[int, int] | None) -> bool | None:
    """Whether the update fits the weight only when that is turned; None where the weight is square."""
    if fit is None or stored[0] == stored[1]:
        return None
    return stored == fit[::-1]


def orientation_doubts(adapted: Mapping[str, Sequence[Module]], base: Base, adapter: Adapter) -> list[str]:
    """Say where the adapter's flag alone decides how weights lie, and where shapes or the architecture contradict it.

    adapted : by base key, the modules that adapt it.
    """
    weights = list(_weights(adapted, base, adapter))
    if base.knows_architecture:
        return _against_architecture([(key, base.layout(key)) for key, _ in weights], base, adapter.config)
    found = {key: _by_shape(base.layout(key).stored_shape, fit) for key, fit in weights}
    square, flag = [key for key, told in found.items() if told is None], adapter.config.fan_in_fan_out
    if not square or not (flag or True in found.values()):
        return []
    if (not flag) in found.values():
        return [
            f"{listing(square, 3)}: square, and read as {_LIE[flag]} by fan_in_fan_out, while the shapes of other "
            "weights show that they lie the other way: these may too. The base as nn.Module would tell"
        ]
    return [f"{listing(square, 3)}: square, and read as {_LIE[flag]} because fan_in_fan_out is set"]


def _weights(
    adapted: Mapping[str, Sequence[Module]], base: Base, adapter: Adapter
) -> Iterator[tuple[str, tuple[int, int] | None]]:
    """Yield every adapted weight that may lie either way, with the `[out, in]` shape of its update where known."""
    for key in base.tensors:
        if key not in adapted or not _may_be_turned(key, base.layout(key).stored_shape):
            continue
        module = adapted[key][0]
        fit = module.family.fits(module.name, shapes_of(module, adapter.source), adapter.config)
        m, n = fit or (None, None)
        yield key, None if m is None or n is None else (m, n)


def _against_architecture(weights: Sequence[tuple[str, Layout]], base: Base, config: AdapterConfig) -> list[str]:
    """Compare the flag with a known architecture; an adapter of both kinds of layers has the flag of one of them."""
    flag = config.raw.get("fan_in_fan_out")
    if not isinstance(flag, bool) or not weights:
        return []
    if flag:  # a converter may have turned the Conv1D that the adapter was trained on
        other = all(layout.kind == "linear" and not _is_conv1d(base.name(key)) for key, layout in weights)
    else:
        other = all(layout.kind == "transposed" for _, layout in weights)
    if not other:
        return []
    return [
        f"fan_in_fan_out is {str(flag).lower()}, but the weights of this architecture lie {_LIE[not flag]}: "
        "the architecture is followed"
    ]


def _is_conv1d(name: str) -> bool:
    return plain(name).removesuffix(".weight").rpartition(".")[2] in CONV1D_MODULES
