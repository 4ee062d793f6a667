"""The figures of a page: each with a spoken description and a fold that says how to read it."""

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.figure import Figure

from spectra.plots.figures import FIGURES
from spectra.plots.style import to_svg

_COLUMN = 4.0  # inches: a wider figure takes the whole page


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure ready for the page."""

    reading: str
    svg: Markup
    wide: bool


def pictures(figures: Mapping[str, Figure]) -> list[Picture]:
    """Return figures as elements of a page, in their order."""
    return [
        Picture(
            FIGURES[name].caption,
            Markup(to_svg(figure, name)),  # noqa: S704
            figure.get_figwidth() > _COLUMN,
        )
        for name, figure in figures.items()
    ]
