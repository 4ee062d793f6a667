"""What figures are put together from: safe words, legends beside the data, logarithmic axes with plain numbers."""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from matplotlib import font_manager
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter
from matplotlib.transforms import ScaledTranslation

from spectra.plots.style import INK, LABEL, MUTED, TICK, TITLE, figure_of
from spectra.text import show

_MODULE, _SIGN = 32, 0.052  # longest module name; inches of one of its signs
_LEGEND = 8.6  # points of one legend line
_AXES = 0.775  # share of a figure's width that its axes have before they are laid out
PLAIN: dict[str, Any] = {"parse_math": False, "usetex": False}


@lru_cache(maxsize=1)
def _drawable() -> frozenset[int]:
    """Code points of the font that comes with matplotlib."""
    return frozenset(font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap())


def safe(text: object, limit: int | None = None) -> str:
    """Return an outside string fit for a figure: escaped, only glyphs the font has, at most `limit` long.

    A long one loses its middle, because both ends of a tensor name tell where it sits.
    """
    given = str(text)
    if limit is not None and len(given) > 4 * limit:
        given = given[: 2 * limit] + given[-2 * limit :]
    shown = "".join(sign if ord(sign) in _drawable() else f"\\u{ord(sign):04x}" for sign in show(given, limit=None))
    if limit is None or len(shown) <= limit:
        return shown
    head = (limit - 1) // 3
    return shown[:head] + "…" + shown[len(shown) - (limit - 1 - head) :]


def words(ax: Axes, *, title: str = "", x: str = "", y: str = "", pad: float = 5.0) -> None:
    """Set title and axis labels, never read as mathematics. Outside strings go through `safe` first."""
    if title:
        ax.set_title(title, fontsize=TITLE, color=INK, pad=pad, **PLAIN)
    if x:
        ax.set_xlabel(x, fontsize=LABEL, color=INK, **PLAIN)
    if y:
        ax.set_ylabel(y, fontsize=LABEL, color=INK, **PLAIN)


def name_ticks(axis: Axis, positions: Sequence[float], names: Iterable[object], limit: int = 26, **text: Any) -> None:
    """Write outside names at the ticks of one axis."""
    axis.set_ticks(positions, labels=[safe(name, limit) for name in names], **PLAIN, **text)


def module_ticks(ax: Axes, modules: Sequence[str], width: float) -> None:
    """Write module names below the axes of a figure `width` inches wide, upright where they would meet."""
    upright = _upright(modules, width)
    name_ticks(ax.xaxis, range(len(modules)), modules, _MODULE, rotation=90 if upright else 0, fontsize=TICK)


def module_room(modules: Sequence[str], width: float) -> float:
    """Return the inches that `module_ticks` and the axis label below it take."""
    return 0.25 + (_SIGN * min(max(map(len, modules), default=0), _MODULE) if _upright(modules, width) else 0.1)


def _upright(modules: Sequence[str], width: float) -> bool:
    longest = min(max(map(len, modules), default=0), _MODULE)
    return longest * _SIGN > 0.9 * (width - 1) / max(len(modules), 1)


def log_axis(ax: Axes, which: str, low: float, high: float) -> None:
    """Make the "x" or "y" axis logarithmic over [low, high], with at least two plain numbers on it."""
    low, high = (low / 2.5, high * 2.5) if high < 6 * low else (low, high)
    ax.set(**{f"{which}scale": "log", f"{which}lim": (low, high)})
    axis: Axis = getattr(ax, f"{which}axis")
    axis.set_major_locator(FixedLocator(_ticks(low, high)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: power(value)))
    axis.set_minor_formatter(NullFormatter())


def _ticks(low: float, high: float) -> list[float]:
    """Return 1, 2, 5 of every decade for a short range, powers of ten for a long one."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if high < 200 * low else (1,)
    every = -(-len(decades) // 9)
    found = [float(f"{digit}e{decade}") for decade in decades[::every] for digit in digits]
    return [value for value in found if low <= value <= high]


def power(value: float) -> str:
    """Return a positive number in few signs: 0.001, 50, 10⁻⁵, 2·10⁻⁵."""
    if 1e-3 <= value < 1e5:
        return f"{value:g}"
    digit, exponent = f"{value:.0e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if digit == "1" else f"{digit}·10{raised}"


def _columns(names: Sequence[object], width: float) -> tuple[int, int]:
    """Return how many columns a legend `width` inches wide has, and how long a name may be."""
    budget = round(17 * width)
    longest = max((len(safe(name, 99)) for name in names), default=0)
    fitting = max(1 if len(names) <= 4 else 2, budget // (longest + 8))
    columns = max(1, min(fitting, len(names)))
    return columns, max(8, budget // columns - 7)


def legend_room(names: Sequence[object], width: float) -> float:
    """Return the inches that `legend` takes above the axes of a figure `width` inches wide."""
    return -(-len(names) // _columns(names, width)[0]) * _LEGEND / 72


def legend(ax: Axes, handles: Sequence[Artist], names: Sequence[object], title: str) -> None:
    """Put a legend between the axes and their title, where it covers no data."""
    figure = figure_of(ax)
    columns, limit = _columns(names, ax.get_window_extent().width / figure.dpi / _AXES)
    words(ax, title=title, pad=5 + -(-len(handles) // columns) * _LEGEND)
    if not handles:
        return
    box = ax.legend(
        handles,
        [str(number) for number in range(len(names))],
        loc="lower left",
        bbox_to_anchor=(0, 1),
        bbox_transform=ax.transAxes + ScaledTranslation(0, 3 / 72, figure.dpi_scale_trans),
        ncols=columns,
        fontsize=TICK,
        frameon=False,
        borderaxespad=0,
        borderpad=0,
        columnspacing=0.9,
        handlelength=1.7,
        labelspacing=0.3,
    )
    # Set afterwards: matplotlib before 3.10 leaves out names that begin with an underscore.
    for text, name in zip(box.get_texts(), names, strict=True):
        text.set(text=safe(name, limit), color=INK, **PLAIN)


def colour_bar(mappable: ScalarMappable, ax: Axes, name: str) -> None:
    """Draw a slim labelled colour bar, as high as the axes, right of them."""
    figure = figure_of(ax)
    bar = figure.colorbar(mappable, cax=ax.inset_axes((1.035, 0, 0.035, 1)))
    bar.ax.spines["outline"].set_visible(False)
    bar.ax.tick_params(labelsize=TICK, width=0.6, length=2.5, color=MUTED, labelcolor=INK)
    bar.set_label(name, fontsize=LABEL, color=INK, **PLAIN)


def nothing(ax: Axes, reason: str) -> Axes:
    """Say in an empty figure why it is empty."""
    ax.set_axis_off()
    ax.text(0.5, 0.5, reason, transform=ax.transAxes, ha="center", va="center", fontsize=LABEL, color=MUTED, **PLAIN)
    return ax
