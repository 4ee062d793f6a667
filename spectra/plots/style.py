"""How every figure looks, and how it becomes a file: colours, sizes, axes, and bytes that repeat.

Nothing here changes matplotlib's global settings for longer than a call, and nothing needs pyplot, so
figures can be made where there is no display.
"""

import html
import io
import re
from pathlib import Path
from typing import Any

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from spectra import table
from spectra.errors import UsageError
from spectra.text import nearest, show

SINGLE, DOUBLE, TALLEST = 3.4, 7.0, 9.0
TITLE, LABEL, TICK, SMALL = 8.0, 7.0, 6.5, 5.5
DPI = 200

# Okabe and Ito's colours, which any colour vision can tell apart; their yellow is too pale for a line.
CATEGORIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")
ALARM, INK, MUTED, FAINT = "#D55E00", "#222222", "#6E6E6E", "#E3E3E3"
INTENSITY = LinearSegmentedColormap.from_list("intensity", ["#F4F8FC", "#BDD7EA", "#5A9BCB", "#1C5F9E", "#08264D"])

_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
FORMATS = tuple(_METADATA)


def new_axes(width: float = SINGLE, height: float = 2.4, *, rows: int = 1, columns: int = 1) -> list[Axes]:
    """Return the axes of a new figure of `width` x `height` inches, row by row."""
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(width, height), layout="constrained")
        grid: list[Axes] = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for ax in grid:
        tidy(ax)
    return grid


def axes(ax: Axes | None, width: float = SINGLE, height: float = 2.4) -> Axes:
    """Return `ax`, or the only axes of a new figure where there is none."""
    return new_axes(width, height)[0] if ax is None else ax


def tidy(ax: Axes) -> None:
    """Give axes thin spines on two sides and small ticks."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set(linewidth=0.6, color=MUTED)
    ax.tick_params(labelsize=TICK, width=0.6, length=2.5, color=MUTED, labelcolor=INK)
    ax.tick_params(which="minor", width=0.4, length=1.5, color=MUTED)


def figure_of(ax: Axes) -> Figure:
    """Return the whole figure that axes belong to, also where they stand in a part of it."""
    owner: Any = ax.figure
    while not isinstance(owner, Figure):
        owner = owner.figure
    return owner


def swatch(order: int) -> dict[str, Any]:
    """Return colour, marker and dash of the category at `order`; the first 28 all differ."""
    size = len(CATEGORIES)
    return {
        "color": CATEGORIES[order % size],
        "marker": MARKERS[(order + order // size) % size],
        "linestyle": DASHES[order // size % len(DASHES)],
        "markersize": 2.6,
        "linewidth": 1.1,
    }


def require_format(form: str) -> str:
    """Return a format that can be written, or raise UsageError with the nearest one."""
    if form not in FORMATS:
        like = nearest(form, FORMATS)
        hint = f"; did you mean '{like}'?" if like else "."
        raise UsageError(f"figure format '{show(form)}' is unknown: choose among {', '.join(FORMATS)}{hint}")
    return form


def render(figure: Figure, name: str, form: str) -> bytes:
    """Return a figure as a png, svg or pdf file: the same bytes for the same figure and name, every time."""
    buffer = io.BytesIO()
    own = {"svg.hashsalt": name, "svg.fonttype": "path", "pdf.fonttype": 42, "text.parse_math": False}
    with matplotlib.style.context(["default", own]):
        figure.savefig(buffer, format=require_format(form), dpi=DPI, metadata=_METADATA[form])
    return buffer.getvalue()


def save(figure: Figure, path: str | Path, form: str) -> bytes:
    """Write a figure whole or not at all, and return the bytes; see `render`."""
    raw = render(figure, Path(path).stem, form)
    table.write(path, raw)
    return raw


def to_svg(figure: Figure, name: str) -> str:
    """Return a figure as an `<svg>` element to stand inside an HTML page.

    Text is drawn as paths, so that it looks alike everywhere. `name` goes in front of every id: figures
    of one page need different names. The figure's own label is what a screen reader says. Looks are attributes
    (`fill="#222222"`): a page may forbid inline styles, and its own style can still give other colours.
    """
    document = render(figure, name, "svg").decode()
    drawing = document[document.index("<svg") :]
    drawing = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style[^>]*>.*?</style>", "", drawing, flags=re.DOTALL)
    prefix = re.sub(r"[^A-Za-z0-9_-]", "-", name) + "-"
    drawing = re.sub(r'(\bid="|\bhref="#|\burl\(#)', rf"\g<1>{prefix}", drawing)
    spoken = html.escape(show(figure.get_label() or name, limit=400))
    look = 'stroke-linejoin="round" stroke-linecap="butt"'
    drawing = re.sub(r'style="([^"]*)"', _attributes, re.sub(r"\n\s*\n+", "\n", drawing))
    return drawing.replace("<svg ", f'<svg role="img" aria-label="{spoken}" {look} ', 1).strip()


def _attributes(style: re.Match[str]) -> str:
    """Return an inline style as attributes: each property that matplotlib sets is one of SVG's own."""
    stated = dict(part.split(":", 1) for part in style[1].split(";") if part.strip())
    return " ".join(f'{name.strip()}="{value.strip()}"' for name, value in stated.items())
